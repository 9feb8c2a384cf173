"""OpenAI's Chat Completions, and what all servers that speak its wire have in common."""

from __future__ import annotations

import base64
import re
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

from ...errors import LLMAPIError, ParameterDropped
from ...runtime.deadline import Deadline
from ...settings import Settings
from ...types import (
    IDENTIFIERS,
    NEEDS,
    Chunk,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    Image,
    Message,
    Reasoning,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from ..calls import CallReader
from .base import Vendor
from .ollama import answers_at
from .replies import Reply, error_for, error_in, stream_error
from .streams import event_data, finish_reason, json_object


class OpenAIWire(Vendor):
    """A backend with OpenAI's wire. What a model refuses to be sent is remembered, and left out from then on."""

    path = "/chat/completions"
    embed_path = "/embeddings"
    serves = frozenset(NEEDS)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._refused: dict[str, frozenset[str]] = {}

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        model = request.model or self.model
        fields = {"model": model, "stream": request.stream, **chat_fields(request, self.takes_thoughts)}
        if "max_tokens" in fields:
            fields["max_tokens"] = self.allowed(model, fields["max_tokens"])
        self.adapt(fields)
        for name in self._refused.get(model, ()):
            _rename(fields, name, RENAMED.get(name))
        if "stream" not in fields:
            fields["stream"] = False
            fields.pop("stream_options", None)
        return fields

    @property
    def takes_thoughts(self) -> bool:
        """Whether what the model thought before a call is sent back with it, as DeepSeek and Kimi want."""
        return False

    def adapt(self, fields: dict[str, Any]) -> None:
        """Change what the vendor is known to want otherwise."""

    def unsent_stops(self, request: GenerationRequest, payload: Mapping[str, Any]) -> tuple[str, ...]:
        return () if "stop" in payload else request.stop

    def whole(self, body: dict[str, Any]) -> Chunk:
        choice = body["choices"][0]
        # Azure leaves out a message that it filters
        message = choice.get("message", {}) if choice.get("finish_reason") == "content_filter" else choice["message"]
        said = self._said(message)
        calls = CallReader().whole(message.get("tool_calls"))
        finish = finish_reason(choice.get("finish_reason"))
        return replace(said, finish_reason=finish, usage=usage(body), model=body.get("model"), calls=calls)

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        """The usage comes after the finish reason, so that waits for it."""
        finish, counted, model = None, Usage(), None
        calls = CallReader()
        for event in map(json_object, takewhile(lambda data: data != b"[DONE]", event_data(lines))):
            if error_in(event):
                raise stream_error(self.name, event)
            model = event.get("model") or model
            counted = usage(event) if event.get("usage") else counted
            for choice in (event.get("choices") or [])[:1]:
                if error_in(choice):  # OpenRouter's
                    raise stream_error(self.name, choice)
                finish = finish or choice.get("finish_reason")
                # a server that does not stream has a message; Perplexity has both, of which the message is all so far
                delta = choice.get("delta" if "delta" in choice else "message") or {}
                said = self._said(delta, model)
                if delta.get("tool_calls"):
                    said = replace(said, calls=calls.pieces(delta["tool_calls"]))
                if not said.is_empty:
                    yield said
        if finish:
            yield Chunk("", finish_reason(finish), counted, model)

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        payload: dict[str, Any] = {"model": request.model or self.embed_model, "input": request.texts}
        payload |= {"encoding_format": "base64"}
        payload |= {"dimensions": request.dimensions} if request.dimensions else {}
        return self.post(self.embed_path, payload, deadline, _embeddings)

    def _said(self, message: Mapping[str, Any], model: str | None = None) -> Chunk:
        """Return what a message or a piece of one says; the thoughts have one of two names."""
        content = message.get("content") or ""
        text = content if isinstance(content, str) else _text(content)
        thought = message.get("reasoning_content") or message.get("reasoning") or _thought(content)
        thoughts = (Reasoning(thought, made_by=self.name),) if thought else ()
        return Chunk(text, model=model, refusal=message.get("refusal") or "", reasoning=thoughts)

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
        said = SAMPLING | {"tools"} if TOOLS_WITHOUT_EFFORT.match(fields["model"]) else SAMPLING
        if EFFORT_NONE.match(fields["model"]) and not fields.keys().isdisjoint(said):
            fields.setdefault("reasoning_effort", "none")
        return fields

    @property
    def takes_thoughts(self) -> bool:
        return not self.is_official

    @property
    def is_official(self) -> bool:
        return f".{urlsplit(self.base_url).hostname}".endswith(".api.openai.com")


# docs/providers.md, 3.3. Models not listed here are asked, and the parameters that they reject are remembered.
REASONS = re.compile(r"gpt-[5-9]|o\d")
TAKES_NO_STOP = re.compile(r"gpt-5|o[34]")
EFFORT_NONE = re.compile(r"gpt-5\.[1-9]|gpt-6-(luna|sol)|gpt-6\.1-terra")
TOOLS_WITHOUT_EFFORT = re.compile(r"gpt-6")
SAMPLING = frozenset({"temperature", "top_p"})
OPTIONAL = {
    *("max_tokens", "max_completion_tokens", "stop", "seed", "stream_options", "reasoning_effort", "verbosity"),
    *("parallel_tool_calls", "presence_penalty", "frequency_penalty", "logit_bias", *SAMPLING, *IDENTIFIERS),
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


def chat_fields(request: GenerationRequest, with_thoughts: bool) -> dict[str, Any]:
    """Return the request in OpenAI's words, without `model` and `stream`."""
    messages = [said for message in request.messages for said in _messages(message, with_thoughts)]
    fields: dict[str, Any] = {"messages": messages, **request.extras_for("openai")}
    for name in ("max_tokens", "temperature", "top_p", "seed", "reasoning_effort"):
        if (value := getattr(request, name)) is not None:
            fields[name] = value
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.response_format:
        fields["response_format"] = _format(request.response_format)
    if request.tools:
        fields |= _tool_fields(request)
    if request.stream:
        fields["stream_options"] = {"include_usage": True}
    return fields


def _tool_fields(request: GenerationRequest) -> dict[str, Any]:
    choice = request.tool_choice
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in request.tools]}
    if choice.mode == "named":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.mode != "auto":
        fields["tool_choice"] = choice.mode
    return fields if choice.parallel is None else fields | {"parallel_tool_calls": choice.parallel}


def _tool(tool: Tool) -> dict[str, Any]:
    said = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in said.items() if value is not None}}


def _messages(message: Message, with_thoughts: bool) -> Iterator[dict[str, Any]]:
    """Yield a message in OpenAI's words; the images of a tool's result are a user's there, after it."""
    if message.role == "tool":
        for result in message.parts:
            assert isinstance(result, ToolResult)
            yield {"role": "tool", "tool_call_id": result.call_id, "content": Message("tool", result.parts).content}
            if images := [part for part in result.parts if isinstance(part, Image)]:
                yield {"role": "user", "content": [_part(image) for image in images]}
        return
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if any(isinstance(part, Image) for part in message.parts):
        said["content"] = [_part(part) for part in message.parts if isinstance(part, Text | Image)]
    if calls := [part for part in message.parts if isinstance(part, ToolCall)]:
        said |= {"content": message.content or None, "tool_calls": [call.as_function for call in calls]}
        thoughts = [part.text for part in message.parts if isinstance(part, Reasoning) and not part.signature]
        said |= {"reasoning_content": "".join(thoughts)} if with_thoughts and any(thoughts) else {}
    yield said | {"name": message.name} if message.name else said


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    image = {"url": part.url or f"data:{part.media_type};base64,{part.data}"}
    return {"type": "image_url", "image_url": image | ({"detail": part.detail} if part.detail else {})}


def _format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    said = {"strict": wanted.strict, "description": wanted.description}
    more = {name: value for name, value in said.items() if value is not None}
    return {"type": "json_schema", "json_schema": {"name": wanted.name or "answer", "schema": wanted.schema, **more}}


def _text(parts: list[dict[str, Any]]) -> str:
    """Return the text of a content in parts: Mistral's, whose thinking and references are no text."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _thought(content: str | list[dict[str, Any]]) -> str:
    thoughts = [] if isinstance(content, str) else [part.get("thinking") or "" for part in content]
    return "".join(thought if isinstance(thought, str) else _text(thought) for thought in thoughts)


def listed_ids(body: Mapping[str, Any]) -> list[str]:
    """Return the names in a list of models; Anthropic's has the same shape."""
    return [str(model["id"]) for model in body["data"]]


def _embeddings(body: Mapping[str, Any]) -> Embeddings:
    items = sorted(body["data"], key=lambda item: item["index"])
    if [item["index"] for item in items] != list(range(len(items))):
        raise ValueError("a text has two vectors")
    vectors = tuple(_vector(item["embedding"]) for item in items)
    return Embeddings(usage=usage(body), model=body.get("model"), vectors=vectors)


def _vector(said: str | list[float]) -> Sequence[float]:
    """Return a vector, which not every server writes as it is asked to: in base64, of little-endian numbers."""
    if not isinstance(said, str):
        return said
    numbers = array("f", base64.b64decode(said, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def usage(body: Mapping[str, Any]) -> Usage:
    """Return the usage in `body`, as far as it is there."""
    counts = body.get("usage")
    if not isinstance(counts, dict):
        return Usage()
    sent, made = (counts.get(f"{kind}_tokens_details") for kind in ("prompt", "completion"))
    cached = sent.get("cached_tokens") if isinstance(sent, dict) else None
    thought = made.get("reasoning_tokens") if isinstance(made, dict) else None
    said = Usage.of(counts.get("prompt_tokens"), counts.get("completion_tokens"), cached, thought)
    if said.reasoning_tokens and said.input_tokens is not None and said.output_tokens is not None:
        apart = said.output_tokens + said.reasoning_tokens
        if said.input_tokens + apart == counts.get("total_tokens"):
            return replace(said, output_tokens=apart)  # xAI's, which count the thoughts beside the rest
    return said
