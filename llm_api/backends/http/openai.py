"""OpenAI's Chat Completions, and what all servers that speak its wire have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ...errors import LLMAPIError, Overloaded, ParameterDropped, QuotaExhausted, RequestRefused, ServerError
from ...runtime.deadline import Deadline
from ...settings import Settings
from ...types import Chunk, GenerationRequest, Message, ResponseFormat, Usage
from ..base import cut_at_stop
from .base import Vendor
from .replies import Reply, error_for, error_object, event_data, json_object

# docs/providers.md, 1.3; the last three are from Hugging Face's older servers.
FINISH_REASONS = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "stop": "stop",
    "eos_token": "stop",
    "eos": "stop",
}


class OpenAIWire(Vendor):
    """A backend with OpenAI's wire."""

    path = "/chat/completions"

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        return {"model": request.model or self.model, "stream": request.stream, **chat_fields(request)}

    def whole(self, body: dict[str, Any]) -> Chunk:
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal") or ""
        return Chunk(text, finish_reason(choice.get("finish_reason")), usage(body), body.get("model"), refusal)

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        return read_deltas(self.name, _events(lines))

    def check(self, deadline: Deadline) -> None:
        self.list_models(deadline)

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/models", deadline, listed_ids)


class OpenAI(OpenAIWire):
    """OpenAI itself, or the server at OPENAI_BASE_URL."""

    name = prefix = "openai"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._refused: dict[str, frozenset[str]] = {}

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        chunks = super().stream(request, deadline)
        if not request.stop or "stop" in self.payload(request):
            return chunks
        return cut_at_stop(chunks, request.stop)

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        fields = super().payload(request)
        model = fields["model"]
        if self.is_official or REASONS.match(model):
            _rename(fields, "max_tokens", "max_completion_tokens")
        if TAKES_NO_STOP.match(model):
            fields.pop("stop", None)
        for name in self._refused.get(model, ()):
            _rename(fields, name, RENAMED.get(name))
        if EFFORT_NONE.match(model) and not fields.keys().isdisjoint(SAMPLING):
            fields.setdefault("reasoning_effort", "none")
        return fields

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if reply.status == 429 and reply.code == "insufficient_quota":
            return QuotaExhausted(f"{self.name} has no quota left for this key")
        if payload and reply.param in payload and _refuses_parameter(reply) and self._can_do_without(payload, reply):
            return ParameterDropped(f"this model of {self.name} refuses {reply.param}", param=reply.param)
        return error_for(self.name, reply)

    def _can_do_without(self, payload: Mapping[str, Any], reply: Reply) -> bool:
        """Note the refused parameter; false where it was the new name of one that is refused too."""
        model, param = payload["model"], reply.param or ""
        known = self._refused.get(model, frozenset())
        if RENAMED.get(param) in known:
            return False
        # a new set each time, since other threads may be reading the old one
        self._refused[model] = known | (SAMPLING if param in SAMPLING else {param})
        return True

    @property
    def is_official(self) -> bool:
        return f".{urlsplit(self.base_url).hostname}".endswith(".api.openai.com")


# docs/providers.md, 3.3. Models not listed here are asked, and the parameters that they reject are remembered.
REASONS = re.compile(r"gpt-[5-9]|o\d")
TAKES_NO_STOP = re.compile(r"gpt-5|o[34]")
EFFORT_NONE = re.compile(r"gpt-5\.[1-9]|gpt-6-(luna|sol)|gpt-6\.1-terra")
SAMPLING = frozenset({"temperature", "top_p"})
OPTIONAL = (
    SAMPLING
    | {"max_tokens", "max_completion_tokens", "stop", "seed"}
    | {
        *("reasoning_effort", "verbosity", "presence_penalty", "frequency_penalty", "logit_bias", "user"),
        *("safety_identifier", "prompt_cache_key"),
    }
)
RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


def _refuses_parameter(reply: Reply) -> bool:
    if reply.status != 400 or reply.param not in OPTIONAL:
        return False
    # The code is null in some replies; then the first word is all there is to go by.
    return reply.code in ("unsupported_parameter", "unsupported_value") or (reply.detail or "").startswith(
        "Unsupported"
    )


def _rename(fields: dict[str, Any], name: str, new_name: str | None) -> None:
    if name in fields:
        value = fields.pop(name)
        if new_name:
            fields[new_name] = value


def chat_fields(request: GenerationRequest) -> dict[str, Any]:
    """Return the request in OpenAI's words, without `model` and `stream`."""
    fields: dict[str, Any] = {"messages": list(map(_message, request.messages)), **request.extras_for("openai")}
    for name in ("max_tokens", "temperature", "top_p", "seed"):
        if (value := getattr(request, name)) is not None:
            fields[name] = value
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.response_format:
        fields["response_format"] = _format(request.response_format)
    if request.stream:
        fields["stream_options"] = {"include_usage": True}
    return fields


def _message(message: Message) -> dict[str, Any]:
    said = {"role": message.role, "content": message.content}
    return said | {"name": message.name} if message.name else said


def _format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    strict = {} if wanted.strict is None else {"strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {"name": wanted.name or "answer", "schema": wanted.schema, **strict}}


def read_deltas(backend: str, events: Iterable[Mapping[str, Any]]) -> Iterator[Chunk]:
    """Translate `chat.completion.chunk` objects; the usage comes after the finish reason, so that waits for it."""
    finish, counted, model = None, Usage(), None
    for event in events:
        if event.get("error"):
            raise stream_error(backend, event)
        model = event.get("model") or model
        counted = usage(event) if event.get("usage") else counted
        for choice in (event.get("choices") or [])[:1]:
            finish = finish or choice.get("finish_reason")
            delta = choice.get("delta") or {}
            text, refusal = delta.get("content") or "", delta.get("refusal") or ""
            if text or refusal:
                yield Chunk(text, model=model, refusal=refusal)
    if finish:
        yield Chunk("", finish_reason(finish), counted, model)


def listed_ids(body: Mapping[str, Any]) -> list[str]:
    """Return the names in a list of models; Anthropic's has the same shape."""
    return [str(model["id"]) for model in body["data"]]


def finish_reason(said: str | None) -> str:
    """Return the reason in OpenAI's words; `stop` where a server says none or one of its own."""
    return FINISH_REASONS.get(said or "stop", "stop")


def usage(body: Mapping[str, Any]) -> Usage:
    """Return the usage in `body`, as far as it is there."""
    counts = body.get("usage") or {}
    return Usage(counts.get("prompt_tokens"), counts.get("completion_tokens"))


def stream_error(backend: str, event: Mapping[str, Any]) -> LLMAPIError:
    """Return the error for an event that ends a stream; the status is 200 by then, so its type is all there is.

    It is never asked again: the provider has begun, and may have billed.
    """
    kind = error_object(event).get("type") or event.get("error_type")
    if kind == "validation":
        return RequestRefused(f"{backend} refused the request")
    overloaded = kind in ("overloaded_error", "overloaded")
    error = (Overloaded if overloaded else ServerError)(f"{backend} broke off with an error")
    error.retryable = False
    return error


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for data in event_data(lines):
        if data == b"[DONE]":
            yield {"choices": [{"finish_reason": "stop"}]}  # for a server that named no reason before
            return
        yield json_object(data)
