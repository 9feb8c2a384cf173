"""OpenAI's Chat Completions, and what all servers that speak its wire have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ...errors import LLMAPIError, ParameterDropped
from ...runtime.deadline import Deadline
from ...settings import Settings
from ...types import Chunk, GenerationRequest, Message, ResponseFormat, Usage
from .base import Vendor
from .ollama import answers_at
from .replies import Reply, error_for, error_in, stream_error
from .streams import event_data, finish_reason, json_object


class OpenAIWire(Vendor):
    """A backend with OpenAI's wire. What a model refuses to be sent is remembered, and left out from then on."""

    path = "/chat/completions"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._refused: dict[str, frozenset[str]] = {}

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        model = request.model or self.model
        fields = {"model": model, "stream": request.stream, **chat_fields(request)}
        if "max_tokens" in fields:
            fields["max_tokens"] = self.allowed(model, fields["max_tokens"])
        self.adapt(fields)
        for name in self._refused.get(model, ()):
            _rename(fields, name, RENAMED.get(name))
        if "stream" not in fields:
            fields["stream"] = False
            fields.pop("stream_options", None)
        return fields

    def adapt(self, fields: dict[str, Any]) -> None:
        """Change what the vendor is known to want otherwise."""

    def unsent_stops(self, request: GenerationRequest, payload: Mapping[str, Any]) -> tuple[str, ...]:
        return () if "stop" in payload else request.stop

    def whole(self, body: dict[str, Any]) -> Chunk:
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")) or "", message.get("refusal") or ""
        return Chunk(text, finish_reason(choice.get("finish_reason")), usage(body), body.get("model"), refusal)

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        return read_deltas(self.name, _events(lines))

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if not payload:
            return error_for(self.name, reply)
        name = next((name for name in RENAMED if name in payload), "max_tokens")
        if lowered := self.lowered(reply, payload, name):
            return lowered
        param = _refused_parameter(reply, payload)
        if param and self._can_do_without(payload["model"], param):
            return ParameterDropped(f"this model of {self.name} refuses {param}", param=param, detail=reply.detail)
        return error_for(self.name, reply)

    def _can_do_without(self, model: str, param: str) -> bool:
        """Note the refused parameter; false where it was the new name of one that is refused too."""
        known = self._refused.get(model, frozenset())
        if RENAMED.get(param) in known:
            return False
        # a new set each time, since other threads may be reading the old one
        self._refused[model] = known | (SAMPLING if param in SAMPLING else {param})
        return True

    def check(self, deadline: Deadline) -> None:
        self.list_models(deadline)

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/models", deadline, listed_ids)


class OpenAI(OpenAIWire):
    """OpenAI itself, or the server at OPENAI_BASE_URL."""

    name = prefix = "openai"

    def caveat(self, deadline: Deadline) -> str | None:
        if self.is_official or not answers_at(self.base_url, self.settings, deadline):
            return None
        return (
            f"{self.name}'s server is an Ollama, which over this wire silently cuts a prompt that is longer than its"
            " context: set LLM_BACKEND=ollama and OLLAMA_URL, with which it refuses that"
        )

    def adapt(self, fields: dict[str, Any]) -> None:
        model = fields["model"]
        if self.is_official or REASONS.match(model):
            _rename(fields, "max_tokens", "max_completion_tokens")
        if TAKES_NO_STOP.match(model):
            fields.pop("stop", None)

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        fields = super().payload(request)
        if EFFORT_NONE.match(fields["model"]) and not fields.keys().isdisjoint(SAMPLING):
            fields.setdefault("reasoning_effort", "none")
        return fields

    @property
    def is_official(self) -> bool:
        return f".{urlsplit(self.base_url).hostname}".endswith(".api.openai.com")


# docs/providers.md, 3.3. Models not listed here are asked, and the parameters that they reject are remembered.
REASONS = re.compile(r"gpt-[5-9]|o\d")
TAKES_NO_STOP = re.compile(r"gpt-5|o[34]")
EFFORT_NONE = re.compile(r"gpt-5\.[1-9]|gpt-6-(luna|sol)|gpt-6\.1-terra")
SAMPLING = frozenset({"temperature", "top_p"})
OPTIONAL = SAMPLING | {
    *("max_tokens", "max_completion_tokens", "stop", "seed", "stream_options", "reasoning_effort", "verbosity"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "user", "safety_identifier", "prompt_cache_key"),
}
RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
# OpenAI's, FastAPI's and Mistral's, Azure's words; the code is null in some of OpenAI's replies.
UNSUPPORTED = re.compile(
    r"^unsupported|unrecognized request argument|extra (inputs|fields) (are )?not permitted|unknown (field|parameter)",
    re.IGNORECASE,
)
NO_STREAM = re.compile(r"to stream this model|stream(ing)? is not supported|not support stream(ing)?\b", re.IGNORECASE)


def _refused_parameter(reply: Reply, payload: Mapping[str, Any]) -> str | None:
    """Return the field of `payload` that the reply refuses, if it is one that can be left out."""
    if reply.status not in (400, 422):
        return None
    if payload.get("stream") and (reply.param == "stream" or NO_STREAM.search(reply.wording)):
        return "stream"
    if reply.code not in ("unsupported_parameter", "unsupported_value") and not UNSUPPORTED.search(reply.wording):
        return "stream_options" if "stream_options" in payload and "stream_options" in reply.wording else None
    named = [reply.param] if reply.param else re.findall(r"\w+", reply.wording)
    return next((name for name in named if name in OPTIONAL and name in payload), None)


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
        if error_in(event):
            raise stream_error(backend, event)
        model = event.get("model") or model
        counted = usage(event) if event.get("usage") else counted
        for choice in (event.get("choices") or [])[:1]:
            if error_in(choice):  # OpenRouter's
                raise stream_error(backend, choice)
            finish = finish or choice.get("finish_reason")
            # a server that does not stream has a message; Perplexity has both, of which the message is all so far
            delta = choice.get("delta" if "delta" in choice else "message") or {}
            text, refusal = _text(delta.get("content")) or "", delta.get("refusal") or ""
            if text or refusal:
                yield Chunk(text, model=model, refusal=refusal)
    if finish:
        yield Chunk("", finish_reason(finish), counted, model)


def _text(content: Any) -> Any:
    """Return the text of a content; one in parts is Mistral's, whose thinking and references are no text."""
    if not isinstance(content, list):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def listed_ids(body: Mapping[str, Any]) -> list[str]:
    """Return the names in a list of models; Anthropic's has the same shape."""
    return [str(model["id"]) for model in body["data"]]


def usage(body: Mapping[str, Any]) -> Usage:
    """Return the usage in `body`, as far as it is there."""
    counts = body.get("usage")
    return (
        Usage.of(counts.get("prompt_tokens"), counts.get("completion_tokens")) if isinstance(counts, dict) else Usage()
    )


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for data in event_data(lines):
        if data == b"[DONE]":
            return
        yield json_object(data)
