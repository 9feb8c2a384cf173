"""What the log says of one request: design.md's fields, gathered while the request lives."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

from .. import strict_json
from ..errors import LLMAPIError, RequestError
from ..settings import Settings
from ..types import Chunk, GenerationRequest, Message, Usage

SCHEMA_VERSION = 1


class LoggedText:
    """A text as the log keeps it, whole or cut; or its length and SHA-256. Takes pieces; memory stays bounded."""

    def __init__(self, settings: Settings, text: str = "") -> None:
        self._limit = settings.log_max_text if settings.log_prompts else 0
        self._hash = None if settings.log_prompts else hashlib.sha256()
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
    """The facts of one request; times are taken from the moment it is made.

    `operation` is `generate`, `chat` (whose texts are `messages`) or `completion`.
    """

    settings: Settings
    operation: str
    request_id: str
    client_ip: str | None = None
    caller: str | None = None
    trace_id: str | None = None
    request: GenerationRequest | None = None
    requested_backend: str | None = None
    backend: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None
    fallback_reason: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    timestamp: float = field(default_factory=time.time)
    time_to_first_chunk_ms: float | None = None
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._response = LoggedText(self.settings)

    def duration_ms(self) -> float:
        """Return the milliseconds since the request came."""
        return round((time.monotonic() - self._started) * 1000, 3)

    def attempted(self, backend: str, outcome: str, seconds: float) -> None:
        """Note one try of a backend; `outcome` is `ok` or an error's code."""
        self.attempts.append({"backend": backend, "outcome": outcome, "duration_ms": round(seconds * 1000, 3)})

    def add(self, chunk: Chunk) -> None:
        """Note a piece of the answer."""
        if self.time_to_first_chunk_ms is None:
            self.time_to_first_chunk_ms = self.duration_ms()
        self._response.add(chunk.text)
        if chunk.finish_reason:
            self.finish_reason = chunk.finish_reason
            self.usage = chunk.usage

    def line(self, status: str, http_status: int, error: LLMAPIError | None) -> dict[str, Any]:
        """Return the record as it is logged; `status` is `ok`, `error` or `aborted`."""
        request = self.request
        return {
            "timestamp": self.timestamp,
            "request_id": self.request_id,
            "operation": self.operation,
            "backend": self.backend,
            "requested_backend": self.requested_backend or self.settings.llm_backend,
            "model": self.model,
            "request_model": request.model if request else None,
            **self._texts(),
            "parameters": self._parameters(),
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "finish_reason": self.finish_reason,
            "stream": request.stream if request else None,
            "duration_ms": self.duration_ms(),
            "time_to_first_chunk_ms": self.time_to_first_chunk_ms,
            "status": status,
            "http_status": http_status,
            "error": self._error(error),
            "fallback": self.fallback_reason is not None,
            "fallback_reason": self.fallback_reason,
            "attempts": self.attempts,
            "client_ip": self.client_ip,
            "caller": self.caller,
            "trace_id": self.trace_id,
            "schema_version": SCHEMA_VERSION,
        }

    def _texts(self) -> dict[str, Any]:
        if not self.request:
            return {"prompt": None, "system": None, "response": None}
        said = self._messages() if self.operation == "chat" else self._prompt()
        return said | (self._response.fields("response") if self.backend else {"response": None})

    def _prompt(self) -> dict[str, Any]:
        assert self.request
        system = self.request.system
        prompt = self._logged("prompt", self.request.turns[-1].content)
        return prompt | ({"system": None} if system is None else self._logged("system", system))

    def _messages(self) -> dict[str, Any]:
        assert self.request
        return {"messages": [self._message(message) for message in self.request.messages]}

    def _message(self, message: Message) -> dict[str, Any]:
        return {"role": message.role} | self._logged("content", message.content)

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name, value in (self.request.parameters if self.request else {}).items():
            words = name in ("stop", "response_format")  # the caller's, as the prompt is
            parameters |= self._logged_words(name, value) if words else {name: value}
        return parameters

    def _error(self, error: LLMAPIError | None) -> dict[str, Any] | None:
        if error is None:
            return None
        # what an upstream says, or a refused field's name, may quote the prompt
        words = error.public()["message"] if self.settings.log_prompts else error.message
        hidden = isinstance(error, RequestError) and not self.settings.log_prompts
        return {"type": error.type, "code": error.code} | ({} if hidden else {"message": words})

    def _logged_words(self, name: str, value: Any) -> dict[str, Any]:
        text = strict_json.dumps(value)
        fits = self.settings.log_prompts and len(text) <= self.settings.log_max_text
        return {name: value} if fits else self._logged(name, text)

    def _logged(self, name: str, text: str) -> dict[str, Any]:
        return LoggedText(self.settings, text).fields(name)
