"""The service's own dialect: POST /generate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from marshmallow import RAISE, fields, post_load, validate

from ..errors import LLMAPIError
from ..types import Answer, Chunk, GenerationRequest, Head, Message, Text, Usage
from .base import Asked, Dialect, line, template
from .fields import MAX_IMAGES, NAME, Body, Picture, StrictBoolean
from .tools import Tooled, tool_fields


class GenerateSchema(Body, Tooled):
    """The body of `POST /generate`."""

    class Meta:
        unknown = RAISE

    prompt = fields.String(required=True)
    system = fields.String()
    model = fields.String(validate=NAME)
    images = fields.List(Picture(), validate=validate.Length(max=MAX_IMAGES))
    details = StrictBoolean()

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        system = [Message.of("system", data.pop("system"))] if data.get("system") else []
        data.pop("system", None)
        messages = (*system, Message("user", (*data.pop("images", ()), Text(data.pop("prompt")))))
        details = data.pop("details", False) or "tools" in data
        data |= tool_fields(data)
        data.pop("parallel_tool_calls", None)
        return Asked(GenerationRequest(messages, is_prompt=True, **data), details)


class Generate(Dialect):
    """Turn a prompt into text.

    The configured backend answers, or the next one of LLM_FALLBACK; the headers say who. With `stream`, NDJSON.
    """

    front = "generate"
    rule = "/generate"
    name = "generate"
    operation = "generate"
    media_type = "application/x-ndjson"
    schema_of = GenerateSchema

    def __init__(self, max_prompt_chars: int, max_image_bytes: int) -> None:
        """As Dialect's; each of the two texts has a limit of its own, which the description shows."""
        super().__init__(max_prompt_chars, max_image_bytes)
        # not appended to: marshmallow's copies of a field share its list
        self.schema.fields["prompt"].validators = [validate.Length(1, max_prompt_chars)]
        self.schema.fields["system"].validators = [validate.Length(0, max_prompt_chars)]

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        said = _said(answer.text, answer.refusal, asked)
        return said | {"details": answer_details(answer)} if asked.shows else said

    def frames(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        beside = []
        write = template(lambda text: line({"response": text}))
        for chunk in chunks:
            if chunk.text and not chunk.refusal:
                yield write(chunk.text)
            elif chunk.refusal:
                yield line(_said(chunk.text, chunk.refusal, asked))
            if chunk.calls or chunk.reasoning:
                beside.append(chunk)
            if chunk.finish_reason:
                last = {"response": "", "done": True, "finish_reason": chunk.finish_reason}
                shown = {"details": answer_details(Answer.of([*beside, chunk], head))} if asked.shows else {}
                yield line(last | shown)
            elif chunk.is_empty:
                yield ""

    def broken(self, error: LLMAPIError) -> str:
        return line({"error": self._public(error), "done": True})


def _said(text: str, refusal: str, asked: Asked) -> dict[str, Any]:
    """Return what the model said. A refusal is words as any other, unless JSON was asked for: it is none."""
    if refusal and asked.request.response_format:
        return {"response": text, "refusal": refusal}
    return {"response": text + refusal}


def answer_details(answer: Answer) -> dict[str, Any]:
    """Return what `details` has of an answer; calls and thoughts where there are some."""
    details = {
        "request_id": answer.request_id,
        "backend": answer.backend,
        "model": answer.model,
        "finish_reason": answer.finish_reason,
        "usage": _usage(answer.usage),
        "duration_ms": answer.duration_ms,
        "fallback": answer.fallback,
        "fallback_reason": answer.fallback_reason,
    }
    if answer.tool_calls:
        names = ("id", "name", "arguments")
        details["tool_calls"] = [{name: getattr(call, name) for name in names} for call in answer.tool_calls]
    return details | ({"reasoning": answer.reasoning} if answer.reasoning else {})


def _usage(usage: Usage) -> dict[str, int | None]:
    always = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {name: count for name, count in asdict(usage).items() if count is not None} | always
