"""Ollama's own chat API."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from ...errors import BackendError, InvalidAnswer, LLMAPIError, ModelNotFound, NotConfigured
from ...runtime.deadline import Deadline
from ...settings import Settings
from ...types import Chunk, GenerationRequest, Usage
from .base import Vendor
from .replies import Reply, error_for, error_in
from .streams import finish_reason, json_object

OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
# docs/providers.md, 2.4: what comes with status 500, and is about the request.
BAD_FORMAT = re.compile(r"invalid JSON schema in format|invalid format: |pars\w+ grammar", re.IGNORECASE)
BAD_OPTION = re.compile(r'option "\w+" must be ')
# What comes with status 400, and is about the model.
BAD_MODEL = re.compile(r"invalid model name|does not support (chat|generate|completion)")
LONGER = "a larger num_ctx takes it: OLLAMA_CONTEXT_LENGTH where Ollama runs, or options.num_ctx in OLLAMA_EXTRA_BODY"


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
            "shift": False,  # left out, it loses half of itself when the answer fills the context
        }
        if request.stop:
            options["stop"] = list(request.stop)
        if options:
            fields["options"] = options
        if request.response_format:
            fields["format"] = request.response_format.schema or "json"
        return fields

    def whole(self, body: dict[str, Any]) -> Chunk:
        if body.get("error"):
            raise self._broke_off(body)
        if body["message"].get("tool_calls"):
            raise InvalidAnswer("ollama called a tool, and none was offered")
        usage = Usage.of(body.get("prompt_eval_count"), body.get("eval_count"))
        finish = finish_reason(body.get("done_reason")) if body["done"] else None
        return Chunk(body["message"]["content"], finish, usage, body.get("model"))

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        for line in filter(None, lines):
            chunk = self.whole(json_object(line))
            if chunk.text or chunk.finish_reason:
                yield chunk
            if chunk.finish_reason:
                return

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if payload and reply.status == 404 and reply.error:
            return self._not_pulled(payload["model"], deadline)
        return self._failure(reply)

    def check(self, deadline: Deadline) -> None:
        can = self.post("/api/show", {"model": self.model}, deadline, _abilities)
        if can and "completion" not in can:
            raise NotConfigured(f"{self.model} can't chat, only {', '.join(can)}: set OLLAMA_MODEL to another")

    def has_model(self, deadline: Deadline) -> bool:
        self.check(deadline)  # Ollama knows all forms of a name, whatever its list says
        return True

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/api/tags", deadline, _names)

    def _broke_off(self, body: Mapping[str, Any]) -> LLMAPIError:
        """Return the error for a `body` with status 200: by then its words are all there is."""
        error = self._failure(Reply.within(error_in(body), self.settings.redact))
        if isinstance(error, BackendError):
            error.message = f"{self.name} broke off with an error"
            error.retryable = False  # it has begun
        return error

    def _failure(self, reply: Reply) -> LLMAPIError:
        """Return the error for `reply`, with Ollama's reason."""
        _unwrap(reply)
        detail = reply.detail or ""
        if reply.status == 400 and BAD_MODEL.search(detail):
            return ModelNotFound("ollama can't answer with this model", param="model", detail=detail)
        is_format = BAD_FORMAT.search(detail)
        if reply.status == 500 and (is_format or BAD_OPTION.search(detail)):
            reply.status = 400
        error = error_for(self.name, reply)
        error.detail = error.detail or reply.detail
        error.param = "response_format" if is_format else error.param
        if error.code == "context_length_exceeded":
            error.message = f"{error.message} ({LONGER})"
        return error

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


def _unwrap(reply: Reply) -> None:
    """Take the runner's own error out of Ollama's text: from 0.34 on it is there as JSON."""
    text = str(reply.error.get("message")).encode()
    if message := Reply.read(reply.status, reply.headers, text, str).error.get("message"):
        reply.error = {"message": message}


def _abilities(body: Mapping[str, Any]) -> list[str]:
    # an older Ollama does not say
    return [str(ability) for ability in body.get("capabilities") or ()]


def _names(body: Mapping[str, Any]) -> list[str]:
    # without the tag that goes without saying, as answers have it
    return [str(model["name"]).removesuffix(":latest") for model in body["models"]]
