"""Reading what providers say when they don't answer, in any of their shapes, and what it means by faults.toml."""

from __future__ import annotations

import email.utils
import math
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ... import errors
from .streams import at, json_object

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
FINAL = (errors.QuotaExhausted, errors.ModelNotFound, errors.InvalidAnswer)
REFUSED = frozenset({400, 413, 422})
# vLLM's, when there is room for the answer, but not after this prompt.
ROOM = re.compile(r"is too large: (\d+)\D.*maximum context length is (\d+)")


def _any(wordings: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(wordings), re.IGNORECASE)


class Rule(NamedTuple):
    """A kind of error and how providers say it; faults.toml explains the fields."""

    kind: type[errors.RequestRefused] | type[errors.BackendError]
    words: str
    code: str | None
    param: str | None
    codes: frozenset[str]
    statuses: re.Pattern[str]
    wordings: re.Pattern[str]
    unless: re.Pattern[str]

    def fits(self, status: int, codes: Iterable[str], said: str) -> bool:
        """Whether it is what a reply means that has `status` and names `codes`."""
        if not self.codes.isdisjoint(codes):
            return True
        is_said = self.statuses.fullmatch(str(status)) and self.wordings.search(said)
        return bool(is_said) and not self.unless.search(said)


def _rule(said: Mapping[str, Any]) -> Rule:
    kind, codes = getattr(errors, said["kind"]), frozenset(said.get("codes", ()))
    patterns = _any([said["statuses"]]), _any(said.get("wordings", ())), _any(said.get("unless", ["(?!)"]))
    return Rule(kind, said["words"], said.get("code"), said.get("param"), codes, *patterns)


_SAID: dict[str, Any] = tomllib.loads(Path(__file__).with_name("faults.toml").read_text("utf-8"))
RULES = tuple(map(_rule, _SAID["rules"]))
REFUSALS = frozenset(_SAID["others"]["refusals"])
OUTPUT_LIMIT = _any(_SAID["others"]["output_limits"])
STATUSES = {word: int(status) for status, words in _SAID["words"].items() for word in words}


@dataclass
class Reply:
    """A provider's answer that is an error: its status, headers and error object ({} where it sent none)."""

    status: int
    headers: Mapping[str, str]
    error: Mapping[str, Any]
    redact: Callable[[str], str]

    @property
    def wording(self) -> str:
        """The provider's own words, those of the server behind it too, in one line: to be searched, not to be shown."""
        raw = at(self.error, "metadata", "raw")  # OpenRouter's
        words = f"{_words(self.error)} {raw}" if isinstance(raw, str) else _words(self.error)
        return " ".join(words[:MAX_SEARCHED_CHARS].split())

    @property
    def detail(self) -> str | None:
        """The provider's own words in one bounded line; they may quote our key."""
        return " ".join(self.redact(_words(self.error)).split())[:MAX_DETAIL_CHARS] or None

    @property
    def codes(self) -> list[str]:
        """All words by which the provider names the error, its `code` first."""
        return [word for name in ("code", "type", "status") if (word := self._word(name))]

    @property
    def param(self) -> str | None:
        """The field that the provider blames."""
        return self._word("param") or _first_place(self.error.get("message"))

    def _word(self, name: str) -> str | None:
        word = self.error.get(name)
        return word if isinstance(word, str) and re.fullmatch(r"[\w.-]{1,64}", self.redact(word)) else None


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


def error_of(body: bytes, status: int) -> dict[str, Any]:
    """Return the error object of a reply, {} where it sent none that can be read."""
    with suppress(errors.InvalidAnswer):
        # Gemini's is in a list
        return error_in(json_object(re.sub(rb"^\s*\[(.*)\]\s*$", rb"\1", body, flags=re.DOTALL)), status)
    return {}


def error_for(backend: str, reply: Reply) -> errors.LLMAPIError:
    """Return the error that a reply means (docs/providers.md, 1.5 and 1.6)."""
    rule = _rule_for(reply)
    message = f"{backend} {rule.words.format(status=reply.status)}"
    error = rule.kind(message, code=rule.code, param=rule.param, detail=reply.detail)
    if isinstance(error, errors.BackendError):
        error.retry_after = retry_after(reply.headers)
        error.retryable = _may_be_retried(reply) and not isinstance(error, FINAL)
        error.busy |= isinstance(error, errors.Overloaded) and bool(BUSY.search(reply.wording))
    elif not rule.code:
        error.code = next((word for word in reply.codes if word in REFUSALS), error.code)
        error.param = rule.param or reply.param
    return error


def _rule_for(reply: Reply) -> Rule:
    said = reply.wording
    room = ROOM.search(said)
    if room and int(room[1]) < int(room[2]):
        said = said.replace("is too large", "")
    return next(rule for rule in RULES if rule.fits(reply.status, reply.codes, said))


def output_limit(reply: Reply) -> int | None:
    """Return the most output tokens that the model allows, where that is what the provider says."""
    found = OUTPUT_LIMIT.search(reply.wording) if reply.status in REFUSED else None
    return int(next(filter(None, found.groups()))) if found else None


def said_status(error: Mapping[str, Any]) -> int:
    """Return the status that the error inside an answer names, as a number or by its word; 500 where it names none."""
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
    problems = at(message, "detail") or message
    problems = problems if isinstance(problems, list) else []
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
