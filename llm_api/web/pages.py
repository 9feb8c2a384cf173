"""What people look at: the playground, the dashboard, /docs. All paths are relative, so they work under any prefix."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import Blueprint, Response, abort, request, send_from_directory

from ..log.search import Wanted
from .guard import is_open, known_host, whose
from .http import json_answer
from .service import service

STATIC = Path(__file__).parent / "static"
# Its own page names its files from the top of the host and has a script inside; only its copy of Swagger UI is used.
SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
# A model's answer is a stranger's text. Should a page ever take it for markup: no script in it runs, nothing is
# fetched from or sent to anywhere else.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
# Swagger UI, made with React, writes HTML; our own pages need not, and where the browser knows how, they can't.
TEXT_ONLY = "; require-trusted-types-for 'script'; trusted-types 'none'"

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
@is_open
def playground() -> Response:
    """Try prompts in the browser; Ollama's clients, which are none, look here for a server that runs."""
    if "text/html" not in request.headers.get("Accept", "") and "ollama" in service().settings.fronts:
        known_host(service())
        return Response("Ollama is running", mimetype="text/plain")
    return _file(STATIC, "playground.html", TEXT_ONLY)


@blueprint.get("/dashboard")
@is_open
def dashboard() -> Response:
    """Show what the log has; the page itself has no data."""
    return _file(STATIC, "dashboard.html", TEXT_ONLY)


@blueprint.get("/dashboard/data")
def dashboard_data() -> Response:
    """Return the numbers of the last `minutes`, the latest and the slowest requests."""
    _refuse_other_sites()
    asked = request.args
    minutes = asked.get("minutes", 60, type=int)
    text, backend, status = (asked.get(name) or None for name in ("text", "backend", "status"))
    fallbacks = status == "fallback"
    wanted = Wanted(text, None, backend, None if fallbacks else status, fallbacks=fallbacks, caller=whose(service()))
    return json_answer(service().dashboard.data(minutes, wanted))


@blueprint.get("/dashboard/record/<request_id>")
def dashboard_record(request_id: str) -> Response:
    """Return what the log has of one request."""
    _refuse_other_sites()
    return json_answer({"records": service().dashboard.records(request_id, Wanted(caller=whose(service())))})


@blueprint.get("/docs")
@is_open
def docs() -> Response:
    """Show the description of the API, and try it."""
    return _file(STATIC, "docs.html")


@blueprint.get("/docs/<path:name>")
@is_open
def swagger_ui(name: str) -> Response:
    """Give a file of Swagger UI."""
    return _file(SWAGGER_UI, name)


@blueprint.get("/static/<path:name>")
@is_open
def static_file(name: str) -> Response:
    """Give a file of the pages."""
    return _file(STATIC, name)


def _refuse_other_sites() -> None:
    """CORS_ORIGINS lets pages of other sites ask; what everybody asked is not theirs. A browser names those only."""
    if "Origin" in request.headers:
        abort(403, "the log is shown to the service's own pages only")


def _file(folder: Path, name: str, more_policy: str = "") -> Response:
    known_host(service())
    answer = send_from_directory(folder, name)
    answer.headers.update(HEADERS)
    answer.headers["Content-Security-Policy"] += more_policy
    return answer
