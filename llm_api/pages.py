"""What people look at: /docs. All of it comes from here; the paths are relative, so that it works under any prefix."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import Blueprint, Response, send_from_directory

# Its own page names its files from the top of the host and has a script inside; only its copy of Swagger UI is used.
SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

blueprint = Blueprint("pages", __name__, static_folder="static", static_url_path="/static")


@blueprint.get("/docs")
def docs() -> Response:
    """Show the description of the API, and try it."""
    return _page("docs.html")


@blueprint.get("/docs/<path:name>")
def swagger_ui(name: str) -> Response:
    """Give a file of Swagger UI."""
    return send_from_directory(SWAGGER_UI, name)


def _page(name: str) -> Response:
    page = blueprint.send_static_file(name)
    page.headers["Content-Security-Policy"] = POLICY
    return page
