"""What the log says of one request, gathered while the request lives. docs/log.md describes the fields."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import strict_json, types
from ..errors import LLMAPIError, RequestError

SCHEMA_VERSION = 2
MORE_TOKENS = ("cached_tokens", "reasoning_tokens")
_ANY = (object,)
_TEXT, _NUMBER, _OBJECT, _LIST = ((*kinds, type(None)) for kinds in ((str,), (int, float), (dict,), (list,)))
# The fields of a line, and the types a reader may find in them: a line with others was not written by this service.
FIELDS: dict[str, tuple[type, ...]] = {
    "timestamp": (int, float),
    **dict.fromkeys(("request_id", "operation", "backend", "requested_backend", "model", "request_model"), _TEXT),
    **dict.fromkeys(("prompt", "system"), _TEXT),
    **dict.fromkeys(("messages", "inputs"), _LIST),
    "dimensions": _NUMBER,
    **dict.fromkeys(("response", "reasoning"), _TEXT),
    **dict.fromkeys(("tools", "tool_choice", "tool_calls"), _ANY),
    "parameters": _OBJECT,
    **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"), _NUMBER),
    **dict.fromkeys(("finish_reason", "stream"), _ANY),
    **dict.fromkeys(("duration_ms", "time_to_first_chunk_ms"), _NUMBER),
    "status": _TEXT,
    "http_status": _ANY,
    "error": _OBJECT,
    "fallback": _ANY,
    "fallback_reason": _TEXT,
    **dict.fromkeys(("attempts", "client_ip", "caller", "trace_id", "schema_version"), _ANY),
}


class TextPolicy(NamedTuple):
    """What the log keeps of a text: its first `most` characters, or, unless `shown`, its length and SHA-256."""

    shown: bool
    most: int


@dataclass(slots=True)
class Attempt:
    """One try of a backend, which may yet fail after it has begun to answer.

    `outcome` is `ok` or an error's code; `left_out` are the parameters that the model was not sent.
    """

    backend: str
    outcome: str = "ok"
    duration_ms: float = 0.0
    error: LLMAPIError | None = None
    left_out: tuple[str, ...] = ()

    def fail(self, error: LLMAPIError) -> None:
        """Note why it failed."""
        self.outcome, self.error = error.code, error


class End(NamedTuple):
    """How a request ended. `status` is `ok`, `error` or `aborted`; without a `head` no backend has answered."""

    status: str
    http_status: int
    error: LLMAPIError | None
    head: types.Head | None
    requested_backend: str
    finish_reason: str | None
    usage: types.Usage
    duration_ms: float
    time_to_first_chunk_ms: float | None
    attempts: tuple[Attempt, ...]
    tool_calls: int = 0


class LoggedText:
    """A text as the log keeps it. Takes pieces; memory stays bounded."""

    def __init__(self, policy: TextPolicy, text: str = "") -> None:
        self._limit = policy.most
        self._hash = None if policy.shown else hashlib.sha256()
        self._kept: list[str] = []
        self._kept_chars = self._chars = self._bytes = 0
        self.add(text)

    def add(self, text: str) -> None:
        """Append a piece."""
        data = text.encode("utf-8", "surrogatepass")
        self._chars += len(text)
        self._bytes += len(data)
        if self._hash:
            self._hash.update(data)
        elif piece := text[: self._limit - self._kept_chars]:
            self._kept.append(piece)
            self._kept_chars += len(piece)

    def fields(self, name: str) -> dict[str, Any]:
        """Return the record's fields for this text under `name`."""
        if self._hash:
            return {f"{name}_chars": self._chars, f"{name}_sha256": self._hash.hexdigest()}
        fields: dict[str, Any] = {name: "".join(self._kept)}
        if self._kept_chars < self._chars:
            fields |= {f"{name}_truncated": True, f"{name}_bytes": self._bytes}
        return fields


@dataclass
class Record:
    """What is known of a request before its end: where it came from, what it asks for, what was answered."""

    policy: TextPolicy
    operation: str
    request_id: str
    client_ip: str | None = None
    trace_id: str | None = None
    caller: str | None = None
    request: types.Request | None = None
    timestamp: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self._response = LoggedText(self.policy)
        self._reasoning: LoggedText | None = None
        self._calls: dict[int, tuple[str, str, LoggedText]] = {}
        self._dimensions: int | None = None

    def add(self, chunk: types.Chunk) -> None:
        """Note a piece of the answer."""
        if isinstance(chunk, types.Embeddings):
            self._dimensions = len(chunk.vectors[0])
        self._response.add(chunk.text or chunk.refusal)
        for piece in chunk.reasoning:
            self._reasoning = self._reasoning or LoggedText(self.policy)
            self._reasoning.add(piece.text)
        for call in chunk.calls:
            self._calls.setdefault(call.index, (call.id, call.name, LoggedText(self.policy)))[2].add(call.arguments)

    @property
    def tool_calls(self) -> int:
        """How many calls the answer has by now."""
        return len(self._calls)

    def line(self, end: End) -> dict[str, Any]:
        """Return the record as it is logged."""
        head, request = end.head, self.request
        return {
            "timestamp": self.timestamp,
            "request_id": self.request_id,
            "operation": self.operation,
            "backend": head.backend if head else None,
            "requested_backend": end.requested_backend,
            "model": head.model if head else None,
            "request_model": request.model if request else None,
            **self.asked(),
            **(self._answered() if head else {"response": None}),
            "input_tokens": end.usage.input_tokens,
            "output_tokens": end.usage.output_tokens,
            # the counts that few providers have
            **{name: count for name in MORE_TOKENS if (count := getattr(end.usage, name)) is not None},
            "finish_reason": end.finish_reason,
            "stream": request.stream if request else None,
            "duration_ms": end.duration_ms,
            "time_to_first_chunk_ms": end.time_to_first_chunk_ms,
            "status": end.status,
            "http_status": end.http_status,
            "error": self._error(end.error),
            "fallback": bool(head and head.fallback_reason),
            "fallback_reason": head.fallback_reason if head else None,
            "attempts": [self._attempt(attempt) for attempt in end.attempts],
            "client_ip": self.client_ip,
            "caller": self.caller,
            "trace_id": self.trace_id,
            "schema_version": SCHEMA_VERSION,
        }

    def asked(self) -> dict[str, Any]:
        """Return what of it was asked: texts, tools and parameters."""
        request = self.request
        if not request:
            return {"prompt": None, "system": None, "parameters": {}}
        if isinstance(request, types.EmbeddingRequest):
            wanted = {"dimensions": request.dimensions} if request.dimensions else {}
            return {"inputs": [self._logged("text", text) for text in request.texts], "parameters": wanted}
        said = self._prompt(request) if request.is_prompt else {"messages": list(map(self._message, request.messages))}
        if request.tools:
            choice = request.tool_choice
            said |= {"tools": [tool.name for tool in request.tools], "tool_choice": choice.name or choice.mode}
        return said | {"parameters": self._parameters(request)}

    def _answered(self) -> dict[str, Any]:
        if self._dimensions:
            return {"response": None, "dimensions": self._dimensions}
        told = self._response.fields("response")
        if self._reasoning:
            told |= self._reasoning.fields("reasoning")
        if self._calls:
            told["tool_calls"] = [_call(*call) for call in self._calls.values()]
        return told

    def _prompt(self, request: types.GenerationRequest) -> dict[str, Any]:
        turn = request.turns[-1]
        prompt = self._logged("prompt", turn.content) | self._parts(turn.parts)
        return prompt | ({"system": None} if request.system is None else self._logged("system", request.system))

    def _message(self, message: types.Message) -> dict[str, Any]:
        said = {"role": message.role} | (self._logged("name", message.name) if message.name else {})
        for part in message.parts:
            if isinstance(part, types.ToolResult):
                return said | self._result(part)
        return said | self._logged("content", message.content) | self._parts(message.parts)

    def _result(self, result: types.ToolResult) -> dict[str, Any]:
        failed = {"is_error": True} if result.is_error else {}
        content = self._logged("content", types.Message("tool", result.parts).content)
        return {"tool_call_id": result.call_id} | failed | content | self._parts(result.parts)

    def _parts(self, parts: Sequence[types.Part]) -> dict[str, Any]:
        """What is beside the text: images without their data, how many documents, calls, thoughts."""
        if len(parts) == 1 and isinstance(parts[0], types.Text):
            return {}
        told: dict[str, Any] = {}
        if images := [self._image(part) for part in parts if isinstance(part, types.Image)]:
            told["images"] = images
        if documents := sum(isinstance(part, types.Document) for part in parts):
            told["documents"] = documents
        if calls := [part for part in parts if isinstance(part, types.ToolCall)]:
            told["tool_calls"] = [_call(c.id, c.name, LoggedText(self.policy, c.arguments)) for c in calls]
        if thoughts := [part.text for part in parts if isinstance(part, types.Reasoning)]:
            told |= self._logged("reasoning", "".join(thoughts))
        return told

    def _image(self, image: types.Image) -> dict[str, Any]:
        """What tells an image apart from others; its data is not kept."""
        if image.data is None:
            return {"media_type": image.media_type} | self._logged("url", image.url or "")
        data = base64.b64decode(image.data)
        return {"media_type": image.media_type, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _parameters(self, request: types.GenerationRequest) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name, value in request.parameters.items():
            # words are the caller's, as the prompt is
            parameters |= {name: value} if isinstance(value, int | float) else self._logged_words(name, value)
        return parameters

    def _attempt(self, attempt: Attempt) -> dict[str, Any]:
        told = {"backend": attempt.backend, "outcome": attempt.outcome, "duration_ms": attempt.duration_ms}
        error = self._error(attempt.error) or {}
        told |= {"message": error["message"]} if "message" in error else {}
        return told | ({"left_out": list(attempt.left_out)} if attempt.left_out else {})

    def _error(self, error: LLMAPIError | None) -> dict[str, Any] | None:
        if error is None:
            return None
        # what an upstream says, or a refused field's name, may quote the prompt
        words = error.words() if self.policy.shown else error.message
        hidden = isinstance(error, RequestError) and not self.policy.shown
        return {"type": error.type, "code": error.code} | ({} if hidden else {"message": words})

    def _logged_words(self, name: str, value: Any) -> dict[str, Any]:
        text = strict_json.dumps(value)
        fits = self.policy.shown and len(text) <= self.policy.most
        return {name: value} if fits else self._logged(name, text)

    def _logged(self, name: str, text: str) -> dict[str, Any]:
        return LoggedText(self.policy, text).fields(name)


def _call(call_id: str, name: str, arguments: LoggedText) -> dict[str, Any]:
    return {"id": call_id, "name": name} | arguments.fields("arguments")
