"""What all views share: the request's id, client and body, and answers and errors as JSON."""

from __future__ import annotations

import errno
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from flask import Response, current_app, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import RequestRedirect

from .. import errors, strict_json
from ..dialects import Asked, Dialect
from ..errors import LLMAPIError
from ..runtime.deadline import Deadline
from ..types import Head
from .limits import client_address
from .service import Client, Service, service

# Seconds; what an upstream asks for may be any number.
MAX_RETRY_AFTER = 3600
# Fetch standard, section 3.3: what a page of another site may read.
EXPOSED = {
    "Access-Control-Expose-Headers": "X-Request-ID, X-LLM-Backend, X-LLM-Model, X-LLM-Fallback, X-LLM-Ignored, "
    "Retry-After, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
}
# Between a stream's error and the break: a browser forgets what it has not handed to its page when a connection breaks.
BREAK_SECONDS = 0.2
# In the environ, once a request is counted: the headers that say how many more its caller may make.
RATES = "llm_api.rates"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
TRACEPARENT = re.compile(r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-|$)")


def _trace(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of W3C Trace Context, none where `traceparent` is missing or not valid (section 3.2)."""
    traceparent = environ.get("HTTP_TRACEPARENT", "")
    if not TRACEPARENT.match(traceparent):
        return {}
    return {"traceparent": traceparent, "tracestate": environ.get("HTTP_TRACESTATE", "")}


def client(here: Service) -> Client:
    """Return where the current request comes from."""
    environ = request.environ  # looked up once, and the headers in it: what `request` does costs more than the rest
    peer, forwarded_for = environ.get("REMOTE_ADDR"), environ.get("HTTP_X_FORWARDED_FOR", "")
    return Client(
        request_id(),
        client_address(peer, forwarded_for, here.settings.trusted_proxies),
        _trace(environ),
        environ.get("gunicorn.socket") or environ.get("werkzeug.socket"),
    )


def request_id() -> str:
    """Return this request's id: the client's own, where it is one that is safe to repeat."""
    environ = request.environ
    known: str | None = environ.get("llm_api.request_id")
    if known is None:
        said = environ.get("HTTP_X_REQUEST_ID", "")
        known = said if REQUEST_ID.fullmatch(said) else secrets.token_hex(16)
        environ["llm_api.request_id"] = known
    return known


def read_body(limit: int, any_type: bool = False) -> dict[str, object]:
    """Return the JSON object of the current request, of at most `limit` bytes.

    With `any_type` it need not be called JSON, unless a page sends it: browsers name its `Origin`, and let it send
    JSON to another's only by leave. Raises UnsupportedMedia, BodyTooLarge or MalformedBody.
    """
    environ = request.environ
    is_free = any_type and "HTTP_ORIGIN" not in environ
    if environ.get("CONTENT_TYPE") != "application/json" and not is_free and not _is_json():
        raise errors.UnsupportedMedia("send JSON in UTF-8, with the header Content-Type: application/json")
    if environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise errors.UnsupportedMedia("send the body without Content-Encoding")
    return strict_json.loads(_read_bytes(limit))


def _is_json() -> bool:
    charset = request.mimetype_params.get("charset", "utf-8")
    return request.mimetype == "application/json" and charset.lower() == "utf-8"


def _read_bytes(limit: int) -> bytes:
    # One more than allowed: at its limit Werkzeug silently cuts a chunked body, and what is left may be valid.
    request.max_content_length = limit + 1
    try:
        body = request.get_data(cache=False)
        if len(body) > limit:
            raise RequestEntityTooLarge
        if len(body) < (request.content_length or 0):
            raise ClientDisconnected
    except RequestEntityTooLarge:
        raise errors.BodyTooLarge(f"the body is larger than {limit:,} bytes (MAX_BODY_BYTES)") from None
    except ClientDisconnected:
        raise errors.ClientGone("the client went away before its request was complete") from None
    except Exception as error:  # each WSGI server has its own errors for a broken chunked body
        raise errors.MalformedBody(f"the body can't be read ({type(error).__name__})") from error
    return body


def json_answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `body` as an answer in JSON."""
    # Not jsonify: a host application's JSON provider may write it otherwise.
    return Response(strict_json.dumps(body) + "\n", status, headers, mimetype="application/json")


def stream_answer(pieces: Iterator[str], dialect: Dialect, deadline: Deadline, headers: dict[str, str]) -> Response:
    """Return the `pieces` of a dialect as an answer that no proxy holds back."""
    # Each server says what it is (RFC 3875, 4.1.17); a test's client has no connection, and wants to see the event.
    is_served = "SERVER_SOFTWARE" in request.environ
    headers = headers | {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}
    parts = _parts(pieces, dialect.keep_alive, deadline, is_served)
    return Response(parts, mimetype=dialect.media_type, headers=headers)


def _parts(pieces: Iterator[str], keep_alive: str, deadline: Deadline, is_served: bool) -> Iterator[str]:
    """Yield `pieces`, those that have come together as one; `keep_alive` for one that says nothing.

    Where they break off, so does the connection: some clients skip the event and look for the end. gunicorn and Flask's
    server take this error for a client that left: they write no last chunk, and say nothing.
    """
    held: list[str] = []
    is_broken = False
    try:
        for piece in pieces:
            held.append(piece)
            deadline.is_held = deadline.more_in_hand
            if not deadline.is_held and (part := "".join(held) or keep_alive):
                held.clear()
                yield part
    except LLMAPIError:
        is_broken = is_served
    if held:
        yield "".join(held)
    if is_broken:
        time.sleep(BREAK_SECONDS)
        raise ConnectionResetError(errno.ECONNRESET, "the answer broke off")


def who(head: Head, asked: Asked) -> dict[str, str]:
    """Return the headers that say who answers, and what of the body it was not told."""
    headers = {"X-LLM-Backend": head.backend, "X-LLM-Model": _header_text(head.model)}
    if head.fallback_reason:
        headers["X-LLM-Fallback"] = head.fallback_reason
    if ignored := (*asked.ignored, *(asked.foreign if head.speaks != asked.request.vendor else ())):
        headers["X-LLM-Ignored"] = _header_text(", ".join(ignored))
    return headers


def _header_text(text: str) -> str:
    """A model's name comes from outside; a header takes printable ASCII."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]


def name_request(response: Response) -> Response:
    """Give an answer its request's id, and leave for the page that asked, where CORS_ORIGINS has its site.

    No cache keeps it unless its view says so, and no browser guesses its type.
    """
    if "X-Request-ID" in response.headers:  # an error's has been here
        return response
    said = {"X-Request-ID": request_id(), "X-Content-Type-Options": "nosniff", **request.environ.get(RATES, {})}
    if name := _dialect().request_id:
        said[name] = request_id()
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.extend(said)  # to set each one looks through all there are
    allowed = service().settings.cors_origins
    if allowed:
        response.vary.add("Origin")
        origin = request.headers.get("Origin", "")
        if "*" in allowed or origin.lower() in allowed:
            response.headers["Access-Control-Allow-Origin"] = "*" if "*" in allowed else origin
            response.headers.update(_preflight() if request.method == "OPTIONS" else EXPOSED)
    return response


def _preflight() -> dict[str, str]:
    return {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
        "Access-Control-Max-Age": "600",
    }


def answer_error(error: Exception) -> Response:
    """Answer any error of our views, and of their routing, as JSON; a host's own error pages stay its own."""
    said, dialect = _as_ours(error), _dialect()
    # a client that left while it sent its request may have closed one direction only
    status = 400 if isinstance(said, errors.ClientGone) else dialect.status(said)
    return name_request(_refusal(said, status, dialect.error(said, request_id())))


def answer_hosts_error(error: LLMAPIError) -> Response:
    """Return one of our errors as JSON for a view of the host's, whose request is not the one in the log."""
    return _refusal(error, error.status, {"error": error.public()})


def _as_ours(error: Exception) -> LLMAPIError:
    if isinstance(error, LLMAPIError):
        return error
    if not isinstance(error, HTTPException):
        current_app.logger.error("request %s met an unexpected %s", request_id(), errors.stack_of(error))
        return errors.InternalError()
    status = error.code or 500
    words = _no_route() if isinstance(error, NotFound) and request.routing_exception else error.description
    kind, code = errors.RequestError if status < 500 else LLMAPIError, re.sub(r"\W+", "_", error.name.lower())
    said = kind(words or "", code=code)
    said.status = status
    said.headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}  # 405 has Allow
    return said


def _refusal(error: LLMAPIError, status: int, body: dict[str, Any]) -> Response:
    response = json_answer(body, status, error.headers)
    # where a used-up quota is a 429, it must not look as if it came back
    if status in (429, 503) and not (status == 429 and isinstance(error, errors.QuotaExhausted)):
        response.headers.setdefault("Retry-After", str(round(min(max(1, error.retry_after or 1), MAX_RETRY_AFTER))))
    return response


def _dialect() -> Dialect:
    """Return the dialect of the current route, or of that above it, or of the client; else the service's own."""
    here = service()
    if dialect := here.dialects.get((request.endpoint or "").rpartition(".")[2]):
        return dialect
    path, said = request.path.removeprefix(here.prefix), request.environ
    own = (each for each in here.dialects.values() if path.startswith(each.below or each.rule) or each.sign in said)
    return next(own, here.dialects["generate"])


def frame_no_route() -> None:
    """Before each request of the app: what has no route under our prefix is JSON, or is one of ours by another method.

    It is left to be raised, so that the host's own functions run before and after it.
    """
    error = request.routing_exception
    if error and not isinstance(error, RequestRedirect) and (_is_below() or _is_ours(error)):
        request.routing_exception = HTTPException(response=answer_error(error))


def _is_below() -> bool:
    # without a prefix the rest is the host's
    return request.path.startswith(f"{service().prefix or '/v1'}/")


def _is_ours(error: HTTPException) -> bool:
    """Whether it says that a route of ours has no such method."""
    adapter = current_app.create_url_adapter(request)
    if not isinstance(error, MethodNotAllowed) or not error.valid_methods or not adapter:
        return False
    with suppress(HTTPException):  # a redirect of the host's
        endpoint, _ = adapter.match(method=next(iter(error.valid_methods)))
        return endpoint.partition(".")[0] in current_app.extensions["llm_api"]
    return False


def _no_route() -> str:
    """Say which routes there are: those that begin alike, or all."""
    here = service()
    name = next(name for name, mount in current_app.extensions["llm_api"].items() if mount is here)
    rules = [r.rule for r in current_app.url_map.iter_rules() if r.endpoint.rpartition(".")[0] == name]
    begin = here.prefix + "/" + request.path.removeprefix(here.prefix).split("/")[1] + "/"
    known = [rule for rule in rules if rule.startswith(begin)] or rules
    return f"there is no route {request.path!r}; those there are: {', '.join(known)}"
