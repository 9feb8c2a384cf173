"""OpenAI's Chat Completions, and what all servers that speak its wire have in common."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from ... import strict_json
from ...errors import LLMAPIError
from ...runtime.deadline import Deadline
from ...strict_json import as_object
from ...types import (
    IDENTIFIERS,
    NEEDS,
    CallPiece,
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
from ..names import named_back, plain_names, short
from ..told import result_text
from .base import Vendor
from .ollama import answers_at
from .replies import Reply, error_for
from .streams import at, finish_reason


class OpenAIWire(Vendor):
    """A backend with OpenAI's wire. What a model refuses to be sent is remembered, and left out from then on."""

    speaks = "openai"
    path = "/chat/completions"
    embed_path = "/embeddings"
    serves = frozenset(NEEDS) - {"documents"}

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        model = request.model or self.model
        fields = {"model": model, "stream": request.stream, **chat_fields(request, self.takes_thoughts)}
        if "max_tokens" in fields:
            fields["max_tokens"] = self.allowed(model, fields["max_tokens"])
        self.adapt(fields)
        for name in self.refused(model):
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

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        return named_back(super().stream(plain_names(request), deadline), request)

    def unsent_stops(self, request: GenerationRequest, payload: Mapping[str, Any]) -> tuple[str, ...]:
        return () if "stop" in payload else request.stop

    def whole(self, body: dict[str, Any]) -> Chunk:
        choice = body["choices"][0]
        if choice.get("error"):  # OpenRouter's
            raise self.broken(choice)
        # Azure leaves out a message that it filters
        message = choice.get("message", {}) if choice.get("finish_reason") == "content_filter" else choice["message"]
        said = self._said(message)
        calls = _Calls()
        made = calls.read(message.get("tool_calls") or (), is_whole=True)
        calls.check()
        finish = finish_reason(choice.get("finish_reason"))
        return replace(said, finish_reason=finish, usage=usage(body), model=body.get("model"), calls=made)

    def pieces(self, lines: Iterator[bytes | None]) -> Iterator[Chunk]:
        """The usage comes after the finish reason, so that waits for it."""
        finish, counted, model = None, Usage(), None
        calls = _Calls()
        for event in self.events(lines):
            if event is None:
                yield Chunk()
                continue
            model = event.get("model") or model
            counted = usage(event) if event.get("usage") else counted
            for choice in (event.get("choices") or [])[:1]:
                if choice.get("error"):  # OpenRouter's
                    raise self.broken(choice)
                finish = finish or choice.get("finish_reason")
                # a server that does not stream has a message; Perplexity has both, of which the message is all so far
                delta = choice.get("delta" if "delta" in choice else "message") or {}
                said = self._said(delta, model)
                if delta.get("tool_calls"):
                    said = replace(said, calls=calls.read(delta["tool_calls"]))
                if not said.is_empty:
                    yield said
        calls.check()
        if finish:
            yield Chunk("", finish_reason(finish), counted, model)

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        asked = {"model": request.model or self.embed_model, "input": request.texts, "encoding_format": "base64"}
        return self.post(self.embed_path, _known(asked | {"dimensions": request.dimensions}), deadline, _embeddings)

    def _said(self, message: Mapping[str, Any], model: str | None = None) -> Chunk:
        """Return what a message or a piece of one says; the thoughts have one of three names."""
        content = message.get("content") or ""
        text = content if isinstance(content, str) else _text(content)
        said = message.get
        thought = said("reasoning_content") or said("reasoning") or said("thinking") or _thought(content)
        thoughts = (Reasoning(thought, made_by=self.name),) if thought else ()
        return Chunk(text, model=model, refusal=message.get("refusal") or "", reasoning=thoughts)

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if not payload:
            return error_for(self.name, reply)
        param = _refused_parameter(reply, payload)
        # one that is the new name of another that is refused too can't be done without
        if param and RENAMED.get(param) not in self.refused(payload["model"]):
            return self.dropped(payload["model"], SAMPLING if param in SAMPLING else {param}, reply)
        return error_for(self.name, reply)

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
        if self.is_official:
            _shorten_ids(fields["messages"])
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
MOST_ID_CHARS = 40
OPTIONAL = {
    *("max_tokens", "max_completion_tokens", "stop", "seed", "stream_options", "reasoning_effort", "verbosity"),
    *("parallel_tool_calls", "presence_penalty", "frequency_penalty", "logit_bias", *SAMPLING, *IDENTIFIERS),
}
RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
UNSUPPORTED_CODES = frozenset({"unsupported_parameter", "unsupported_value"})
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
    if not UNSUPPORTED_CODES & {*reply.codes} and not UNSUPPORTED.search(reply.wording):
        return "stream_options" if "stream_options" in payload and "stream_options" in reply.wording else None
    named = [reply.param] if reply.param else re.findall(r"\w+", reply.wording)
    return next((name for name in named if name in OPTIONAL and name in payload), None)


def _shorten_ids(messages: Iterable[dict[str, Any]]) -> None:
    """Shorten what others have given as ids of calls: OpenAI takes 40 characters (docs/providers.md, 3.1)."""
    for message in messages:
        for holder, name in ((message, "tool_call_id"), *((call, "id") for call in message.get("tool_calls", ()))):
            if len(holder.get(name, "")) > MOST_ID_CHARS:
                holder[name] = short(holder[name], MOST_ID_CHARS)


def _rename(fields: dict[str, Any], name: str, new_name: str | None) -> None:
    if name in fields:
        value = fields.pop(name)
        if new_name:
            fields[new_name] = value


def chat_fields(request: GenerationRequest, with_thoughts: bool) -> dict[str, Any]:
    """Return the request in OpenAI's words, without `model` and `stream`."""
    choice, as_said = request.tool_choice, ("max_tokens", "temperature", "top_p", "seed", "reasoning_effort")
    named = {"type": "function", "function": {"name": choice.name}} if choice.name else choice.mode
    fields = {
        "messages": list(_messages(request.messages, with_thoughts)),
        **request.extras_for("openai"),
        **{name: getattr(request, name) for name in as_said},
        "stop": list(request.stop) or None,
        "response_format": request.response_format and _format(request.response_format),
        "tools": list(map(_tool, request.tools)) or None,
        "tool_choice": named if request.tools and choice.mode != "auto" else None,
        "parallel_tool_calls": choice.parallel if request.tools else None,
        "stream_options": {"include_usage": True} if request.stream else None,
    }
    return _known(fields)


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: Tool) -> dict[str, Any]:
    said = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": _known(said)}


def _messages(messages: Iterable[Message], with_thoughts: bool) -> Iterator[dict[str, Any]]:
    """Yield the messages in OpenAI's words; the images of tools' results are a user's there, after all the results."""
    seen: list[Image] = []
    for message in messages:
        if message.role == "tool":
            for result in message.parts:
                assert isinstance(result, ToolResult)
                yield {"role": "tool", "tool_call_id": result.call_id, "content": result_text(result)}
                seen += [part for part in result.parts if isinstance(part, Image)]
            continue
        yield from _shown(seen)
        seen = []
        yield _message(message, with_thoughts)
    yield from _shown(seen)


def _shown(images: list[Image]) -> Iterator[dict[str, Any]]:
    if images:
        yield {"role": "user", "content": list(map(_part, images))}


def _message(message: Message, with_thoughts: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if any(isinstance(part, Image) for part in message.parts):
        said["content"] = [_part(part) for part in message.parts if isinstance(part, Text | Image)]
    if calls := [part for part in message.parts if isinstance(part, ToolCall)]:
        # what stands beside a call is for the server that said it
        made = calls if with_thoughts else [replace(call, extra=None) for call in calls]
        said |= {"content": message.content or None, "tool_calls": [call.as_function for call in made]}
        thoughts = [part.text for part in message.parts if isinstance(part, Reasoning) and not part.signature]
        said |= {"reasoning_content": "".join(thoughts)} if with_thoughts and any(thoughts) else {}
    return said | {"name": message.name} if message.name else said


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": _known({"url": url, "detail": part.detail})}


def _format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    said = {"name": wanted.name or "answer", "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": _known(said | {"description": wanted.description})}


def _text(parts: list[dict[str, Any]]) -> str:
    """Return the text of a content in parts: Mistral's, whose thinking and references are no text."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _thought(content: str | list[dict[str, Any]]) -> str:
    thoughts = [] if isinstance(content, str) else [part.get("thinking") or "" for part in content]
    return "".join(thought if isinstance(thought, str) else _text(thought) for thought in thoughts)


@dataclass
class _Call:
    key: object
    id: str
    index: int | None = None
    said: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        text = "".join(self.said)  # of which there may be none yet
        return bool(text) and as_object(text) is not None


class _Calls:
    """The calls of one answer. Pieces belong to the call of their index, which servers repeat, shuffle or leave out."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._named = count()

    def read(self, calls: Iterable[Mapping[str, Any]], is_whole: bool = False) -> tuple[CallPiece, ...]:
        """Return what a `delta` says of calls; of a call that has no name yet, nothing.

        Of a message that `is_whole` each entry is one, whatever its index.
        """
        found = ((said, (not is_whole and self._of(said)) or self._begun(said)) for said in calls)
        return tuple(piece for said, call in found for piece in self._read(said, call))

    def check(self) -> None:
        """Raise ValueError where a call has got no name: without it that call would be lost."""
        if any(call.index is None and (call.id or any(call.said)) for call in self._calls):
            raise ValueError("a call has no name")

    def _of(self, said: Mapping[str, Any]) -> _Call | None:
        """Return the call that this goes on with, None where it begins one."""
        key, call_id = said.get("index"), said.get("id")
        fitting = [call for call in self._calls if key is None or call.key == key]
        if key is None and call_id:
            fitting = [call for call in fitting if call.id == call_id]
        last = fitting[-1] if fitting else None
        if not at(said, "function", "name"):
            # Poolside's later pieces have another id, some of Nebius's another index
            return last or (self._calls[-1] if self._calls and not call_id and not self._calls[-1].is_whole else None)
        if not last or (call_id and last.id and call_id != last.id):
            return None
        return None if not call_id and last.index is not None and last.is_whole else last

    def _begun(self, said: Mapping[str, Any]) -> _Call:
        self._calls.append(_Call(said.get("index"), said.get("id") or ""))
        return self._calls[-1]

    def _read(self, said: Mapping[str, Any], call: _Call) -> Iterable[CallPiece]:
        function = said.get("function") or {}
        text = function.get("arguments") or ""
        text = text if isinstance(text, str) else strict_json.dumps(text)
        call.said.append(text)
        if call.index is not None:
            yield CallPiece(call.index, "", "", text, said.get("extra_content"))
        elif name := function.get("name"):
            call.index = next(self._named)
            call_id = call.id or said.get("id") or ""
            yield CallPiece(call.index, call_id, name, "".join(call.said), said.get("extra_content"))


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
    data = base64.b64decode(said, validate=True)
    return struct.unpack(f"<{len(data) // 4}f", data)


def usage(body: Mapping[str, Any]) -> Usage:
    """Return the usage in `body`, as far as it is there."""
    counts = at(body, "usage")
    # OpenAI's, DeepSeek's, Moonshot's
    places = (("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",), ("cached_tokens",))
    cached = next((found for place in places if (found := at(counts, *place)) is not None), None)
    thought = at(counts, "completion_tokens_details", "reasoning_tokens")
    said = Usage.of(at(counts, "prompt_tokens"), at(counts, "completion_tokens"), cached, thought)
    if said.reasoning_tokens and said.input_tokens is not None and said.output_tokens is not None:
        apart = said.output_tokens + said.reasoning_tokens
        if said.input_tokens + apart == at(counts, "total_tokens"):
            return replace(said, output_tokens=apart)  # xAI's, which count the thoughts beside the rest
    return said
