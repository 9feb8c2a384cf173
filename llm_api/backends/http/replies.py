"""Reading what providers send: error replies and their classes, lines, server-sent events, shapes."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from ...errors import (
    BackendError,
    BadCredentials,
    InvalidAnswer,
    LLMAPIError,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    ServerError,
    TimedOut,
)

MAX_DETAIL_CHARS = 500
# 16 MiB of empty lists became 450 MB of memory.
MAX_BRACKETS = 200_000

# Anthropic (docs/providers.md, 4.5), OpenAI's newer wording (3.4), llama.cpp and Ollama.
TOO_LONG = re.compile(
    r"prompt is too long|input tokens exceed|exceed\w* (the )?(available |maximum )?context|maximum context length",
    re.IGNORECASE,
)
# What servers say that will take the request later (Ollama, llama.cpp, Anthropic, Hugging Face); a proxy before one
# that is dead says 503 too, but not so.
BUSY = re.compile(r"busy|try again|loading|overloaded|capacity|high demand|too many|queue", re.IGNORECASE)

P = ParamSpec("P")
T = TypeVar("T")


class Reply:
    """A provider's answer that is not a 200: its status, headers and JSON object ({} where it sent none)."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, redact: Callable[[str], str] = str
    ) -> None:
        self.status = status
        self.headers = headers
        self.error = error_object(_object_or_empty(body))
        self._redact = redact

    @property
    def detail(self) -> str | None:
        """The provider's own words in one bounded line; they may quote our key."""
        message = self.error.get("message")
        if not isinstance(message, str):
            return None
        return " ".join(self._redact(message).split())[:MAX_DETAIL_CHARS] or None

    @property
    def code(self) -> str | None:
        """The provider's `error.code`, else its `error.type`."""
        return self._word("code") or self._word("type")

    @property
    def param(self) -> str | None:
        """The field that the provider blames."""
        return self._word("param")

    @property
    def is_too_long(self) -> bool:
        """Whether it is about the length of the prompt: only OpenAI has a code for that."""
        return self.code == "context_length_exceeded" or bool(TOO_LONG.search(self.detail or ""))

    def _word(self, name: str) -> str | None:
        word = self.error.get(name)
        return word if isinstance(word, str) and re.fullmatch(r"[\w.-]{1,64}", self._redact(word)) else None


def error_object(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body["error"]`; where it is a string (Ollama, Hugging Face), an object with that message."""
    error = body.get("error")
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def error_for(backend: str, reply: Reply) -> LLMAPIError:
    """Return the error for a reply, by its status alone (docs/providers.md, 1.5 and 1.6)."""
    status = reply.status
    if status in (400, 413, 422):
        if status == 413 or reply.is_too_long:
            return RequestRefused(
                f"{backend} can't take a request of this length",
                code="context_length_exceeded",
                param="prompt",
                detail=reply.detail,
            )
        return RequestRefused(f"{backend} refused the request", code=reply.code, param=reply.param, detail=reply.detail)
    if status == 404 and reply.error:
        return ModelNotFound(f"{backend} does not have this model", param="model", detail=reply.detail)
    kind, words = _kind(status)
    error = kind(f"{backend} {words} (status {status})", retry_after=retry_after(reply.headers))
    error.retryable = _may_be_retried(reply) and kind is not QuotaExhausted
    error.busy = kind is RateLimited or (kind is Overloaded and bool(BUSY.search(reply.detail or "")))
    return error


def _kind(status: int) -> tuple[type[BackendError], str]:
    if status in _KINDS:
        return _KINDS[status]
    if status >= 500 or status in (408, 409):
        return ServerError, "failed"
    return InvalidAnswer, "answered with an unexpected status"


_KINDS: dict[int, tuple[type[BackendError], str]] = {
    401: (BadCredentials, "did not accept the key"),
    402: (QuotaExhausted, "has no credit left for this key"),
    403: (BadCredentials, "does not allow this with the key"),
    404: (InvalidAnswer, "has nothing at this address; is its base URL right?"),
    429: (RateLimited, "limits the rate of requests"),
    503: (Overloaded, "is overloaded"),
    504: (TimedOut, "took too long"),
    529: (Overloaded, "is overloaded"),
}


def _may_be_retried(reply: Reply) -> bool:
    said = reply.headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return reply.status in (408, 409, 429) or reply.status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds, or an HTTP date) asks for, or None."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    seconds = _number(said)
    return _seconds_until(said) if seconds is None else seconds


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _seconds_until(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def split_lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their end. Split on the byte alone: text may hold U+2028, which str splits on."""
    held: list[bytes] = []
    for part in parts:
        *lines, rest = part.split(b"\n")
        for line in lines:
            yield b"".join([*held, line]).rstrip(b"\r")
            held.clear()
        if rest:
            held.append(rest)
    if held:
        yield b"".join(held)


def event_data(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the data of each server-sent event; comments, empty events and an unfinished last one are dropped.

    The event's name is not needed: every provider repeats it inside the data. (WHATWG HTML, server-sent events.)
    """
    data: list[bytes] = []
    for line in lines:
        if not line:
            if any(data):
                yield b"\n".join(data)
            data.clear()
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises InvalidAnswer."""
    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise InvalidAnswer("the answer has too many parts")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidAnswer("the answer is not JSON, or was cut short") from None
    if not isinstance(value, dict):
        raise InvalidAnswer("the answer is not a JSON object")
    return value


def in_shape(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `read(...)`. Raises InvalidAnswer where the data has not the shape that `read` expects."""
    try:
        return read(*args, **kwargs)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise InvalidAnswer(f"the answer has an unexpected shape ({type(error).__name__})") from error


def _object_or_empty(body: bytes) -> dict[str, Any]:
    try:
        return json_object(body)
    except InvalidAnswer:
        return {}
