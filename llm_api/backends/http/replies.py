"""Reading what providers say when they don't answer, in any of their shapes; ../faults.py knows what it means."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ...errors import (
    BackendError,
    InvalidAnswer,
    LLMAPIError,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
)
from ..faults import OUTPUT_LIMIT, REFUSALS, REFUSED, STATUSES, Rule, rule_for
from .streams import json_object

MAX_DETAIL_CHARS = 500
# What is searched for a provider's wording.
MAX_SEARCHED_CHARS = 4_000
# FastAPI, Mistral and LiteLLM put messages into lists and objects.
MAX_DEPTH = 4
# Some answers have a `message` of their own, such as "success".
ANSWERS = frozenset({"choices", "content", "done", "data", "models"})
# What servers say that will take the request later (Ollama, llama.cpp, Anthropic, Hugging Face); a proxy before one
# that is dead says 503 too, but not so.
BUSY = re.compile(r"busy|try again|loading|overloaded|capacity|high demand|too many|queue", re.IGNORECASE)


class Reply:
    """A provider's answer that is an error: its status, headers and error object ({} where it sent none)."""

    def __init__(
        self, status: int, headers: Mapping[str, str], error: Mapping[str, Any], redact: Callable[[str], str] = str
    ) -> None:
        self.status = status
        self.headers = headers
        self.error = error
        self._redact = redact

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], body: bytes, redact: Callable[[str], str]) -> Reply:
        """Return the reply that has `body`."""
        return cls(status, headers, error_in(_object_or_empty(body), status), redact)

    @classmethod
    def within(cls, error: Mapping[str, Any], redact: Callable[[str], str] = str) -> Reply:
        """Return the reply for an error inside an answer with status 200: the status is the one the error says."""
        return cls(_said_status(error), {}, error, redact)

    @property
    def wording(self) -> str:
        """The provider's own words, those of the server behind it too, in one line: to be searched, not to be shown."""
        behind = self.error.get("metadata")  # OpenRouter's
        raw = behind.get("raw") if isinstance(behind, Mapping) else None
        words = f"{_words(self.error)} {raw}" if isinstance(raw, str) else _words(self.error)
        return " ".join(words[:MAX_SEARCHED_CHARS].split())

    @property
    def detail(self) -> str | None:
        """The provider's own words in one bounded line; they may quote our key."""
        return " ".join(self._redact(_words(self.error)).split())[:MAX_DETAIL_CHARS] or None

    @property
    def code(self) -> str | None:
        """The provider's `error.code`, else its `error.type`."""
        return self._word("code") or self._word("type")

    @property
    def codes(self) -> set[str]:
        """All words by which the provider names the error."""
        return {word for name in ("code", "type", "status") if (word := self._word(name))}

    @property
    def param(self) -> str | None:
        """The field that the provider blames."""
        return self._word("param") or _first_place(self.error.get("message"))

    def _word(self, name: str) -> str | None:
        word = self.error.get(name)
        return word if isinstance(word, str) and re.fullmatch(r"[\w.-]{1,64}", self._redact(word)) else None


def error_in(body: Mapping[str, Any], status: int = 200) -> dict[str, Any]:
    """Return the error object in `body`, {} where there is none."""
    error = body.get("error")
    if isinstance(error, dict) and error:
        return error
    if error or body.get("type") == "error":
        # Ollama's, Hugging Face's; TGI names the kind beside it
        return {**body, "message": error, "type": body.get("error_type") or body.get("type")}
    if status == 200 and body.get("object") != "error" and not body.keys().isdisjoint(ANSWERS):
        return {}
    # vLLM's and Mistral's, FastAPI's, Bedrock's
    said = next((body[name] for name in ("message", "detail", "msg") if isinstance(body.get(name), str | list)), None)
    said = said or (body.get("detail") if status != 200 else None)
    return {**body, "message": said or body.get("message")} if said or body.get("object") == "error" else {}


def stream_error(backend: str, event: Mapping[str, Any]) -> LLMAPIError:
    """Return the error for an event that ends a stream.

    Only where the rate is limited it is asked again: else the provider has begun, and may have billed.
    """
    error = error_for(backend, Reply.within(error_in(event)))
    if isinstance(error, BackendError) and not isinstance(error, RateLimited):
        error.retryable = False
    return error


def error_for(backend: str, reply: Reply) -> LLMAPIError:
    """Return the error for a reply: the first rule that fits, else by its status (docs/providers.md, 1.5 and 1.6)."""
    rule = rule_for(reply.status, reply.codes, reply.wording)
    if issubclass(rule.kind, RequestRefused):
        return _refusal(rule, backend, reply)
    param, wait = "model" if rule.kind is ModelNotFound else None, retry_after(reply.headers)
    error = rule.kind(f"{backend} {rule.words}", param=param, detail=reply.detail, retry_after=wait)
    error.retryable = _may_be_retried(reply) and rule.kind not in (QuotaExhausted, ModelNotFound, InvalidAnswer)
    error.busy = rule.kind is RateLimited or (rule.kind is Overloaded and bool(BUSY.search(reply.wording)))
    return error


def _refusal(rule: Rule, backend: str, reply: Reply) -> RequestRefused:
    message = f"{backend} {rule.words}"
    if rule.words != "refused the request":
        return RequestRefused(message, code="context_length_exceeded", param="prompt", detail=reply.detail)
    code = next((word for word in (reply.code, *sorted(reply.codes)) if word in REFUSALS), None)
    return RequestRefused(message, code=code, param=reply.param, detail=reply.detail)


def output_limit(reply: Reply) -> int | None:
    """Return the most output tokens that the model allows, where that is what the provider says."""
    found = OUTPUT_LIMIT.search(reply.wording) if reply.status in REFUSED else None
    return int(next(filter(None, found.groups()))) if found else None


def _said_status(error: Mapping[str, Any]) -> int:
    """Return the status that an error names, as a number or by its word; 500 where it names none."""
    names = ("code", "status", "status_code", "statusCode", "http_status_code", "type")
    said = [str(error[name]) for name in names if isinstance(error.get(name), str | int)]
    for word in said:
        if re.fullmatch(r"[45]\d\d", word):
            return int(word)
    statuses = (STATUSES.get(_bare(word)) for word in said)
    return next(filter(None, statuses), 422 if isinstance(error.get("message"), list) else 500)


def _bare(word: str) -> str:
    """`BadRequestError`, `bad_request_error` and `BAD_REQUEST` are the same word."""
    return re.sub(r"(error|exception)$", "", re.sub(r"[^a-z]", "", word.lower()))


def _words(value: object, depth: int = MAX_DEPTH) -> str:
    """Return the text in a message, whether it is that, a list, or an object; FastAPI's also with its place."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_words(item, depth - 1) for item in value)))
    if not isinstance(value, Mapping) or not depth:
        return ""
    texts = (_words(value.get(name), depth - 1) for name in ("message", "msg", "detail", "error"))
    text = next(filter(None, texts), "")
    place = ".".join(_place(value))
    return f"{place}: {text}" if place and text else text


def _place(problem: Mapping[str, Any]) -> list[str]:
    place = problem.get("loc")
    return [str(part) for part in place if part != "body"] if isinstance(place, list) else []


def _first_place(message: object) -> str | None:
    if isinstance(message, Mapping):
        message = message.get("detail")
    problems = message if isinstance(message, list) else []
    places = [_place(problem) for problem in problems if isinstance(problem, Mapping)]
    return next((place[0] for place in places if place and re.fullmatch(r"[a-z_]{1,64}", place[0])), None)


def _may_be_retried(reply: Reply) -> bool:
    said = reply.headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return reply.status in (408, 409, 429) or reply.status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds, or an HTTP date) asks for, or None."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(ValueError):
            if math.isfinite(number := float(headers.get(name, ""))):
                return number / unit
    with suppress(ValueError, OverflowError):
        return email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time()
    return None


def _object_or_empty(body: bytes) -> dict[str, Any]:
    try:
        return json_object(re.sub(rb"^\s*\[(.*)\]\s*$", rb"\1", body, flags=re.DOTALL))  # Gemini's is in a list
    except InvalidAnswer:
        return {}
