"""Ollama's own chat API."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ... import strict_json
from ...errors import LLMAPIError, ModelNotFound, NotConfigured, Unsupported
from ...runtime.deadline import Deadline
from ...settings import Settings
from ...strict_json import as_object, in_an_object
from ...types import (
    CallPiece,
    Chunk,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from ..told import call_schema, described, result_text, told, with_call
from .base import Vendor
from .replies import Reply, error_for, error_of
from .streams import finish_reason, json_object

OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
NO_THINKING = re.compile(r"does not support thinking")
# What we need of a model, by Ollama's words for it.
ABILITIES = {"tools": "tools", "vision": "images"}
EFFORTS: dict[str | None, Any] = {None: False, "none": False, "minimal": "low", "xhigh": "max"}
LONGER = "a larger num_ctx takes it: OLLAMA_CONTEXT_LENGTH where Ollama runs, or options.num_ctx in OLLAMA_EXTRA_BODY"


class Ollama(Vendor):
    name = prefix = speaks = "ollama"
    address = "url"
    path = "/api/chat"
    fetches_images = False
    serves = Vendor.serves | {"tool_choice"}

    def headers(self) -> dict[str, str]:
        return {}

    def abilities(self, model: str | None, deadline: Deadline) -> frozenset[str]:
        shown = self._abilities(model or self.model, deadline)
        return self.serves | {ABILITIES[word] for word in shown if word in ABILITIES}

    def _abilities(self, model: str, deadline: Deadline) -> list[str]:
        return self.shown(model, lambda: self.post("/api/show", {"model": model}, deadline, _capabilities))

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if not (request.tool_choice.is_forced and request.offered):
            return super().stream(request, deadline)
        self._abilities(request.model or self.model, deadline)
        return with_call(super().stream(request, deadline), request.offered)

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        model = request.model or self.model
        options = {**request.extras_for(self.name).get("options", {})}
        options |= {theirs: value for ours, theirs in OPTIONS.items() if (value := getattr(request, ours)) is not None}
        effort = None if "reasoning_effort" in self.refused(model) else request.reasoning_effort
        fields: dict[str, Any] = {
            "model": model,
            "messages": _messages(request.messages),
            "stream": request.stream,  # left out it means true
            "think": EFFORTS.get(effort, effort),  # left out, models that can think do, and the answer comes late
            "truncate": False,  # left out, a conversation that is too long silently loses its beginning
            "shift": False,  # left out, it loses half of itself when the answer fills the context
        }
        if request.stop:
            options["stop"] = list(request.stop)
        if options:
            fields["options"] = options
        if request.response_format:
            fields["format"] = request.response_format.schema or "json"
        return fields | (self._tools(model, request) if request.offered else {})

    def _tools(self, model: str, request: GenerationRequest) -> dict[str, Any]:
        """Return the fields for tools. There is no choice, but a format that only a call fits forces one.

        A model that takes no tools is told them in words, and its call comes as text.
        """
        tools = {"tools": [{"type": "function", "function": described(tool)} for tool in request.offered]}
        if request.tool_choice.is_forced:
            takes_tools = "tools" in self._shown.get(model, (0, []))[1]
            said = tools if takes_tools else {"messages": _messages(told(request).messages)}
            return said | {"format": call_schema(request.offered)}
        if request.response_format:
            raise Unsupported(
                "ollama can't let the model choose between a call and an answer in a response_format: send tools with"
                " tool_choice required, or one of the two",
                param="response_format",
            )
        return tools

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        kept = {name: self.extra_body[name] for name in ("options", "keep_alive") if name in self.extra_body}
        # left out, truncate means that a text that is too long silently loses its end
        payload = kept | {"model": request.model or self.embed_model, "input": request.texts, "truncate": False}
        payload |= {"dimensions": request.dimensions} if request.dimensions else {}
        return self.post("/api/embed", payload, deadline, _embeddings)

    def whole(self, body: dict[str, Any], called: int = 0) -> Chunk:
        """Translate an answer, or a line of one; `called` calls came before."""
        if body.get("error"):
            raise self.broken(body)
        said = body["message"]
        usage = Usage.of(body.get("prompt_eval_count"), body.get("eval_count"))
        finish = finish_reason(body.get("done_reason")) if body["done"] else None
        calls = tuple(_call(call, index) for index, call in enumerate(said.get("tool_calls") or (), called))
        thoughts = (Reasoning(said["thinking"], made_by=self.name),) if said.get("thinking") else ()
        return Chunk(said["content"], finish, usage, body.get("model"), calls=calls, reasoning=thoughts)

    def pieces(self, lines: Iterator[bytes | None]) -> Iterator[Chunk]:
        called = 0
        for line in lines:
            if not line:
                if line is None:
                    yield Chunk()
                continue
            chunk = self.whole(json_object(line), called)
            called += len(chunk.calls)
            if chunk.finish_reason or not chunk.is_empty:
                yield chunk
            if chunk.finish_reason:
                return

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if payload and reply.status == 404 and reply.error:
            return self._not_pulled(payload["model"], deadline)
        if payload and payload.get("think") and NO_THINKING.search(reply.detail or ""):
            return self.dropped(payload["model"], {"reasoning_effort"}, reply)
        # from 0.34 on the runner's own error is in Ollama's text as JSON
        if message := error_of(str(reply.error.get("message")).encode(errors="replace"), reply.status).get("message"):
            reply.error = {"message": message}
        error = error_for(self.name, reply)
        if error.code == "context_length_exceeded":
            error.message = f"{error.message} ({LONGER})"
        return error

    def check(self, deadline: Deadline) -> None:
        can = self.post("/api/show", {"model": self.model}, deadline, _capabilities)
        if can and "completion" not in can:
            raise NotConfigured(f"{self.model} can't chat, only {', '.join(can)}: set OLLAMA_MODEL to another")

    def has_model(self, deadline: Deadline) -> bool:
        self.check(deadline)  # Ollama knows all forms of a name, whatever its list says
        return True

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/api/tags", deadline, _names)

    def _not_pulled(self, model: str, deadline: Deadline) -> ModelNotFound:
        pulled = "not known"
        with suppress(LLMAPIError):
            pulled = ", ".join(self.list_models(deadline)) or "none"
        return ModelNotFound(
            f"ollama has no model {model!r}: pull it with `ollama pull {model}` (pulled: {pulled})", param="model"
        )


def answers_at(address: str, settings: Settings, deadline: Deadline) -> bool:
    """Whether an Ollama speaks OpenAI's wire at `address`, which it does below /v1 only."""
    if not address.endswith("/v1"):
        return False
    there = Ollama(dataclasses.replace(settings, ollama_url=address.removesuffix("/v1")))
    with suppress(LLMAPIError):
        return there.get("/api/version", deadline, lambda body: isinstance(body["version"], str))
    return False


def _capabilities(body: Mapping[str, Any]) -> list[str]:
    # an Ollama before 0.6.4 does not say
    return [str(ability) for ability in body.get("capabilities") or ()]


def _embeddings(body: Mapping[str, Any]) -> Embeddings:
    counted = Usage.of(body.get("prompt_eval_count"), None)
    return Embeddings(usage=counted, model=body.get("model"), vectors=tuple(body["embeddings"]))


def _names(body: Mapping[str, Any]) -> list[str]:
    # without the tag that goes without saying, as answers have it
    return [str(model["name"]).removesuffix(":latest") for model in body["models"]]


def _messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the conversation in Ollama's words; a result names its tool, which the last call of its id had."""
    names: dict[str, str] = {}
    said = []
    for message in messages:
        names |= {part.id: part.name for part in message.parts if isinstance(part, ToolCall)}
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        said += [_result(part, names) for part in results] or [_message(message)]
    return said


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if images := [part.data for part in message.parts if isinstance(part, Image)]:
        said["images"] = images
    kept = [part.text for part in message.parts if isinstance(part, Reasoning) and part.made_by == Ollama.name]
    if thinking := "".join(kept):
        said["thinking"] = thinking
    if calls := [_called(part) for part in message.parts if isinstance(part, ToolCall)]:
        said["tool_calls"] = calls
    return said


def _result(result: ToolResult, names: Mapping[str, str]) -> dict[str, Any]:
    name = {"tool_name": names[result.call_id]} if result.call_id in names else {}
    pictures = (part for part in result.parts if isinstance(part, Image))
    said = Message("tool", (Text(result_text(result)), *pictures))
    return _message(said) | name | {"tool_call_id": result.call_id}


def _called(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": in_an_object(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _call(said: Mapping[str, Any], index: int) -> CallPiece:
    function, written = said["function"], said["function"]["arguments"]
    # some of its models' parsers write them as a text
    arguments = written if isinstance(written, str) else strict_json.dumps({**written})
    if as_object(arguments) is None:
        raise ValueError("arguments are an object")
    return CallPiece(index, said.get("id") or "", function["name"], arguments)
