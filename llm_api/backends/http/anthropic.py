"""Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import LLMAPIError, QuotaExhausted
from ...runtime.deadline import Deadline
from ...types import Chunk, GenerationRequest, Usage
from .base import Vendor
from .openai import listed_ids, stream_error
from .replies import Reply, error_for, event_data, json_object

# `max_tokens` is required; thinking counts too and the newer tokenizers need more of them (docs/providers.md, 4.7).
DEFAULT_MAX_TOKENS = 4096
# docs/providers.md, 1.3
FINISH_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
SPENT = ("contract_spend_limit_reached", "enforced_spend_limit_reached")


class Claude(Vendor):
    name = prefix = "claude"
    path = "/v1/messages"
    serves = frozenset({"json_schema"})

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"anthropic-version": self.settings.claude_version} | ({"x-api-key": key} if key else {})

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": request.model or self.model,
            "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
            "messages": [{"role": m.role, "content": m.content} for m in request.turns],
            "stream": request.stream,
        }
        if request.system:
            fields["system"] = request.system
        if request.temperature is not None:
            fields["temperature"] = min(request.temperature, 1)  # OpenAI's scale ends at 2, Anthropic's at 1
        if request.top_p is not None:
            fields["top_p"] = request.top_p
        if request.stop:
            fields["stop_sequences"] = list(request.stop)
        if request.response_format:
            fields["output_config"] = {"format": {"type": "json_schema", "schema": request.response_format.schema}}
        return fields

    def whole(self, body: dict[str, Any]) -> Chunk:
        text = "".join(block["text"] for block in body["content"] if block["type"] == "text")
        usage = Usage(_input_tokens(body["usage"]), body["usage"].get("output_tokens"))
        return Chunk(text, _finish_reason(body.get("stop_reason")), usage, body.get("model"))

    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        input_tokens = output_tokens = model = stop_reason = None
        for event in map(json_object, event_data(lines)):
            match event["type"]:
                case "message_start":
                    input_tokens = _input_tokens(event["message"].get("usage", {}))
                    model = event["message"].get("model")
                case "content_block_delta" if event["delta"]["type"] == "text_delta":
                    yield Chunk(event["delta"]["text"], model=model)
                case "message_delta":
                    stop_reason = event["delta"].get("stop_reason")
                    output_tokens = event.get("usage", {}).get("output_tokens")
                case "message_stop":
                    yield Chunk("", _finish_reason(stop_reason), Usage(input_tokens, output_tokens), model)
                    return
                case "error":
                    raise stream_error(self.name, event)

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if reply.status == 429 and _is_spent(reply):
            return QuotaExhausted(f"{self.name} has no budget left for this key (spend limit)")
        return error_for(self.name, reply)

    def check(self, deadline: Deadline) -> None:
        self.get("/v1/models?limit=1", deadline, listed_ids)

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/v1/models?limit=1000", deadline, listed_ids)


def _input_tokens(usage: Mapping[str, Any]) -> int | None:
    """What was read from or written to the cache is not in `input_tokens` (docs/providers.md, 1.4)."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(usage.get(name) or 0 for name in names) if "input_tokens" in usage else None


def _finish_reason(said: str | None) -> str:
    return FINISH_REASONS.get(said or "", "stop")


def _is_spent(reply: Reply) -> bool:
    """A rate limit names the time to wait; a spend limit does not (docs/providers.md, 1.5)."""
    details = reply.error.get("details")
    said = details.get("error_code") if isinstance(details, dict) else None
    return "retry-after" not in reply.headers or said in SPENT
