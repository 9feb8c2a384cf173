"""What people look at: the playground, the dashboard, /docs. All paths are relative, so they work under any prefix."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, request

from ..log.numbers import MINUTE
from ..log.recent import Dashboard
from ..log.search import Wanted
from ..runtime.deadline import Deadline
from .guard import is_open, known_host, whose
from .http import client, json_answer
from .service import service

STATIC = Path(__file__).parent / "static"
# A model's answer is a stranger's text. Should a page ever take it for markup: no script in it runs, nothing is
# fetched from or sent to anywhere else. Where the browser knows how, no page can write HTML at all.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
}

# What a question may take that lines are read for, each one.
READ_SECONDS = 2.0

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
@is_open
def playground() -> Response:
    """Try prompts in the browser; Ollama's clients, which are none, look here for a server that runs."""
    if "text/html" not in request.headers.get("Accept", "") and "ollama" in service().settings.fronts:
        known_host(service())
        return Response("Ollama is running", mimetype="text/plain")
    return _page("playground")


@blueprint.get("/dashboard")
@is_open
def dashboard() -> Response:
    """Show what the log has; the page itself has no data."""
    return _page("dashboard")


@blueprint.get("/dashboard/data")
def dashboard_data() -> Response:
    """Return the numbers of the last `minutes`, the latest and the slowest requests."""
    own = whose(service()) is not None
    with _asked(READ_SECONDS) as check:
        return json_answer(service().dashboard.data(_minutes(), _wanted(), check, only_own=own))


@blueprint.get("/dashboard/requests")
def dashboard_requests() -> Response:
    """Return the latest requests before the place `before`."""
    with _asked(READ_SECONDS) as check:
        return json_answer(service().dashboard.more(_minutes(), _wanted(), request.args.get("before", ""), check))


@blueprint.get("/dashboard/requests.csv")
def dashboard_csv() -> Response:
    """Return the latest records as CSV."""
    lines = _csv_lines(service().dashboard, _minutes(), _wanted(), _asked(service().settings.request_timeout))
    headers = {"Content-Disposition": "attachment; filename=requests.csv"}
    return Response(chain([next(lines)], lines), mimetype="text/csv", headers=headers)  # an error comes with the first


@blueprint.get("/dashboard/record/<request_id>")
def dashboard_record(request_id: str) -> Response:
    """Return what the log has of one request."""
    wanted = Wanted(request_id=request_id, caller=whose(service()))
    with _asked(READ_SECONDS) as check:
        return json_answer({"records": service().dashboard.records(wanted, check)})


@blueprint.get("/docs")
@is_open
def docs() -> Response:
    """Show the description of the API, and try it."""
    return _page("docs")


@blueprint.get("/static/<path:name>")
@is_open
def static_file(name: str) -> Response:
    """Give a file of the pages."""
    known_host(service())
    version, _, rest = name.partition("/")
    is_versioned = version == _version()
    answer = _packed_answer(*(_packed(rest if is_versioned else name) or abort(404)))
    # under its version a file is never another one
    answer.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_versioned else "no-cache"
    return answer


def _asked(seconds: float) -> AbstractContextManager[Callable[[], None]]:
    """Give what ends a question that takes longer, or that nobody waits for any more."""
    _refuse_other_sites()
    return _watched(Deadline(seconds, client(service()).sock))


@contextmanager
def _watched(deadline: Deadline) -> Iterator[Callable[[], None]]:
    with deadline.stopping(lambda: None):
        yield deadline.check


def _csv_lines(
    dashboard: Dashboard, minutes: int, wanted: Wanted, asked: AbstractContextManager[Callable[[], None]]
) -> Iterator[str]:
    with asked as check:
        yield from dashboard.csv(minutes, wanted, check)


def _minutes() -> int:
    """Return how many are asked for."""
    if (since := _time("since")) is None:
        return request.args.get("minutes", 60, type=int)
    return ceil(((_until() or time.time()) - since) / MINUTE)


def _time(name: str) -> float | None:
    """Return a time that is asked for, which is none to come."""
    said = request.args.get(name, type=int)
    return None if said is None else min(max(said, 1), time.time())


def _until() -> int | None:
    """Return the whole minute before which requests are asked for; None: up to now."""
    until = _time("until")
    return None if until is None else ceil(until / MINUTE) * MINUTE


def _wanted() -> Wanted:
    """Return which requests are asked for: never another's than the caller may see."""
    words = ("text", "backend", "model", "operation", "error", "reason", "caller", "status")
    asked: dict[str, Any] = {name: request.args[name] for name in words if request.args.get(name)}
    asked["until"] = _until()
    if asked.get("status") == "fallback":
        asked = {**asked, "status": None, "fallbacks": True}
    own = whose(service())
    return Wanted(**asked if own is None else asked | {"caller": own})


def _refuse_other_sites() -> None:
    """CORS_ORIGINS lets pages of other sites ask; what everybody asked is not theirs. A browser names those only."""
    if "Origin" in request.headers:
        abort(403, "the log is shown to the service's own pages only")


def _page(name: str) -> Response:
    """Return a page that asks for its files by their version."""
    known_host(service())
    text = (STATIC / name / "page.html").read_text().replace('"static/', f'"static/{_version()}/')
    return _strict(Response(text, mimetype="text/html", headers={"Cache-Control": "no-cache"}))


@cache
def _files() -> dict[str, Path]:
    """Return the pages' files, by what they are asked for as."""
    return {path.relative_to(STATIC).as_posix(): path for path in sorted(STATIC.rglob("*")) if path.is_file()}


@cache
def _version() -> str:
    """Return what changes with any of the files: they name each other without it."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _files().values())).hexdigest()[:12]


@cache
def _packed(name: str) -> tuple[bytes, str] | None:
    """Return a file, compressed, and its type."""
    if not (path := _files().get(name)):
        return None
    return gzip.compress(path.read_bytes(), mtime=0), mimetypes.guess_type(name)[0] or "text/plain"


def _packed_answer(packed: bytes, media_type: str) -> Response:
    answer = _strict(Response(packed, mimetype=media_type))
    answer.vary.add("Accept-Encoding")
    if request.accept_encodings["gzip"]:
        answer.content_encoding = "gzip"
    else:
        answer.set_data(gzip.decompress(packed))
    return answer


def _strict(answer: Response) -> Response:
    answer.headers.update(HEADERS)
    return answer
