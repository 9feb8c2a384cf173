"""Anthropic's Messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import LLMAPIError, QuotaExhausted
from ...runtime.deadline import Deadline
from ...types import Chunk, GenerationRequest, Usage
from .base import Vendor
from .openai import listed_ids
from .replies import Reply, error_for, error_in, stream_error
from .streams import event_data, finish_reason, json_object

# `max_tokens` is required; thinking counts too and the newer tokenizers need more of them (docs/providers.md, 4.7).
DEFAULT_MAX_TOKENS = 4096
SPENT = ("contract_spend_limit_reached", "enforced_spend_limit_reached")


class Claude(Vendor):
    name = prefix = "claude"
    path = "/v1/messages"
    serves = frozenset({"json_schema"})

    @property
    def base_url(self) -> str:
        # the paths have it, other vendors' addresses too
        return super().base_url.removesuffix("/v1")

    def means(self, model: str, listed: str) -> bool:
        # its list has each model's date, an alias has none (docs/providers.md, 4.7)
        return super().means(model, listed) or bool(re.fullmatch(re.escape(model) + r"-\d{8}", listed))

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"anthropic-version": self.settings.claude_version} | ({"x-api-key": key} if key else {})

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        model = request.model or self.model
        fields: dict[str, Any] = {
            "model": model,
            "max_tokens": self.allowed(model, request.max_tokens or DEFAULT_MAX_TOKENS),
            "stream": request.stream,
            **_conversation(request),
            **_sampling(request),
        }
        if stops := [stop for stop in request.stop if not stop.isspace()]:
            fields["stop_sequences"] = stops
        if request.response_format:
            fields["output_config"] = {"format": {"type": "json_schema", "schema": request.response_format.schema}}
        return fields

    def unsent_stops(self, request: GenerationRequest, payload: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(filter(str.isspace, request.stop))

    def whole(self, body: dict[str, Any]) -> Chunk:
        text = "".join(block["text"] for block in body["content"] if block["type"] == "text")
        counts = body.get("usage")
        return Chunk(text, finish_reason(body.get("stop_reason")), _usage(counts, counts), body.get("model"))

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        start = end = model = stop_reason = None
        for event in map(json_object, event_data(lines)):
            if error_in(event):
                raise stream_error(self.name, event)
            match event["type"]:
                case "message_start":
                    start = event["message"].get("usage")
                    model = event["message"].get("model")
                case "content_block_delta" if event["delta"]["type"] == "text_delta":
                    yield Chunk(event["delta"]["text"], model=model)
                case "message_delta":
                    stop_reason = event["delta"].get("stop_reason")
                    end = event.get("usage")
                case "message_stop":
                    yield Chunk("", finish_reason(stop_reason), _usage(start, end), model)
                    return

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if payload and (lowered := self.lowered(reply, payload, "max_tokens")):
            return lowered
        if reply.status == 429 and _is_spent(reply):
            return QuotaExhausted(f"{self.name} has no budget left for this key (spend limit)", detail=reply.detail)
        return error_for(self.name, reply)

    def check(self, deadline: Deadline) -> None:
        self.get("/v1/models?limit=1", deadline, listed_ids)

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/v1/models?limit=1000", deadline, listed_ids)


def _conversation(request: GenerationRequest) -> dict[str, Any]:
    """Return the system text and the turns: empty ones are refused, and so is a conversation without any (4.3)."""
    turns = [{"role": m.role, "content": m.content} for m in request.turns if m.content.strip()]
    system = (request.system or "").strip() and request.system
    if turns:
        return {"messages": turns} | ({"system": system} if system else {})
    return {"messages": [{"role": "user", "content": system or request.messages[-1].content}]}


def _sampling(request: GenerationRequest) -> dict[str, float]:
    """Return temperature or top_p: some models refuse both together (4.3). One that is 1 says nothing."""
    # OpenAI's scale ends at 2, Anthropic's at 1
    temperature = None if request.temperature is None else min(request.temperature, 1)
    if temperature is None or (request.temperature == 1 and request.top_p not in (None, 1)):
        return {} if request.top_p is None else {"top_p": request.top_p}
    return {"temperature": temperature}


def _usage(start: Any, end: Any) -> Usage:
    """Return the counts; `input_tokens` lacks what the cache was read or written (docs/providers.md, 1.4)."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    counts = [start.get(name) for name in names] if isinstance(start, dict) else [None]
    whole = [Usage.of(count or 0, None).input_tokens for count in counts]
    total = None if counts[0] is None or None in whole else sum(filter(None, whole))
    return Usage.of(total, end.get("output_tokens") if isinstance(end, dict) else None)


def _is_spent(reply: Reply) -> bool:
    """A rate limit names the time to wait; a spend limit does not (docs/providers.md, 1.5).

    An error inside an answer has no headers to tell.
    """
    details = reply.error.get("details")
    said = details.get("error_code") if isinstance(details, dict) else None
    return said in SPENT or bool(reply.headers and "retry-after" not in reply.headers)
