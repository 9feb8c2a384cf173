"""Ollama's own chat API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from ...errors import LLMAPIError, ModelNotFound
from ...runtime.deadline import Deadline
from ...types import Chunk, GenerationRequest, Usage
from .base import Vendor
from .replies import Reply, error_for, stream_error
from .streams import finish_reason, json_object

OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}


class Ollama(Vendor):
    name = prefix = "ollama"
    address = "url"
    path = "/api/chat"

    def headers(self) -> dict[str, str]:
        return {}

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        options = {theirs: value for ours, theirs in OPTIONS.items() if (value := getattr(request, ours)) is not None}
        fields: dict[str, Any] = {
            "model": request.model or self.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "stream": request.stream,  # left out it means true
            "think": False,  # left out, models that can think do, and the answer comes late
            "truncate": False,  # left out, a conversation that is too long silently loses its beginning
        }
        if request.stop:
            options["stop"] = list(request.stop)
        if options:
            fields["options"] = options
        if request.response_format:
            fields["format"] = request.response_format.schema or "json"
        return fields

    def whole(self, body: dict[str, Any]) -> Chunk:
        usage = Usage.of(body.get("prompt_eval_count"), body.get("eval_count"))
        finish = _finish_reason(body) if body["done"] else None
        return Chunk(body["message"]["content"], finish, usage, body.get("model"))

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        for line in filter(None, lines):
            body = json_object(line)
            if body.get("error"):
                raise stream_error(self.name, body)
            chunk = self.whole(body)
            if chunk.text or chunk.finish_reason:
                yield chunk
            if chunk.finish_reason:
                return

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if payload and reply.status == 404 and reply.error:
            return self._not_pulled(payload["model"], deadline)
        return error_for(self.name, reply)

    def check(self, deadline: Deadline) -> None:
        if _tagged(self.model) not in map(_tagged, self.list_models(deadline)):
            raise self._not_pulled(self.model, deadline)

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/api/tags", deadline, _names)

    def _not_pulled(self, model: str, deadline: Deadline) -> ModelNotFound:
        pulled = "not known"
        with suppress(LLMAPIError):
            pulled = ", ".join(self.list_models(deadline)) or "none"
        return ModelNotFound(
            f"ollama has no model {model!r}: pull it with `ollama pull {model}` (pulled: {pulled})", param="model"
        )


def _finish_reason(body: Mapping[str, Any]) -> str:
    if body["message"].get("tool_calls"):
        return "tool_calls"
    return finish_reason(body.get("done_reason"))


def _names(body: Mapping[str, Any]) -> list[str]:
    # without the tag that goes without saying, as answers have it
    return [str(model["name"]).removesuffix(":latest") for model in body["models"]]


def _tagged(model: str) -> str:
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"
