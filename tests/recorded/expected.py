"""What the providers' own clients make of an answer: the truth that ours is held against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionMessage

from .cassettes import Exchange, Json

Counts = tuple[int | None, int | None, int, int]

USER = {"role": "user", "content": "Hi"}


@dataclass(frozen=True)
class Said:
    """An answer in no provider's words. `parts` are its kinds in order: `reasoning`, `text`, `refusal`, `call`.

    `calls` are ids, names and arguments as text, `blocks` the thoughts with a
    signature or in data: text, signature, data. `usage` is input, output, cached and reasoning tokens, the last two 0
    where nothing is said.
    """

    text: str
    calls: list[tuple[str, str, str]]
    thought: str
    blocks: list[tuple[str, str | None, str | None]]
    refusal: str
    parts: list[str]
    finish: str
    usage: Counts
    model: str | None


def read(exchange: Exchange) -> Said:
    """Return the answer as its provider's client reads it. Raises that client's errors."""
    return READERS[exchange.kind](exchange)


class RefusedInside(Exception):
    """An error with status 200, which OpenAI's client takes for an answer without choices."""


def outcome(exchange: Exchange) -> Said | int:
    """Return the answer, or the status of its error."""
    try:
        return read(exchange)
    except RefusedInside as refused:
        return int(refused.args[1])
    except (openai.APIStatusError, anthropic.APIStatusError) as refused:
        return refused.status_code


def transport(exchange: Exchange, library: Any = httpx) -> Any:
    """Return a network that has only the answer."""
    kind = "text/event-stream" if exchange.is_streamed else "application/json"
    reply = library.Response(exchange.status, headers={"content-type": kind}, content=exchange.answer)
    return library.MockTransport(lambda _: reply)


def _openai(exchange: Exchange) -> Said:
    with httpx.Client(transport=transport(exchange)) as http:
        client = openai.OpenAI(api_key="x", base_url="http://far/v1", http_client=http, max_retries=0)
        return of_openai(client, exchange.is_streamed)


def of_openai(client: openai.OpenAI, is_streamed: bool) -> Said:
    """Return what `client` reads where it asks for a chat."""
    messages: Any = [USER]
    if not is_streamed:
        return _completion(client.chat.completions.create(model="m", messages=messages))
    state = ChatCompletionStreamState()
    for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
        if (
            chunk.choices or chunk.usage
        ):  # Azure begins with what it makes of the prompt; the state wants a choice first
            state.handle_chunk(chunk)
    return _completion(state.current_completion_snapshot)


def _completion(said: Any) -> Said:
    if not said.choices:
        raise RefusedInside(said.error["message"], said.error["status"])
    choice, usage = said.choices[0], said.usage
    message = choice.message or ChatCompletionMessage(role="assistant")  # Azure leaves out what it filters
    calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
    blocks = [
        (b.get("thinking", ""), b.get("signature"), b.get("data")) for b in getattr(message, "thinking_blocks", [])
    ]
    words = {"reasoning": thought, "text": message.content, "refusal": message.refusal}
    parts = [kind for kind, is_there in words.items() if is_there]
    return Said(
        text=message.content or "",
        calls=calls,
        thought=thought,
        blocks=blocks,
        refusal=message.refusal or "",
        parts=[*parts, *["call"] * len(calls)],
        finish=choice.finish_reason,
        usage=counted(usage.to_dict() if usage else {}),
        model=said.model,
    )


def counted(usage: Json) -> Counts:
    """Return OpenAI's `usage` as Said has it."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    return usage.get("prompt_tokens"), usage.get("completion_tokens"), cached or 0, thought or 0


# Anthropic's reasons in OpenAI's words (docs/providers.md, 1.3).
REASONS = {
    **dict.fromkeys(("end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_tokens", "model_context_window_exceeded", "pause_turn"), "length"),
    **{"tool_use": "tool_calls", "refusal": "content_filter"},
}


def _claude(exchange: Exchange) -> Said:
    asked: Any = {"model": "m", "max_tokens": 9, "messages": [USER]}
    with httpx2.Client(transport=transport(exchange, httpx2)) as http:
        client = anthropic.Anthropic(api_key="x", base_url="http://far", http_client=http, max_retries=0)
        if not exchange.is_streamed:
            return _message(client.beta.messages.create(**asked))
        with client.beta.messages.stream(**asked) as stream:
            written: dict[int, str] = {}
            for event in stream:
                if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                    written[event.index] = written.get(event.index, "") + event.delta.partial_json
            return _message(stream.get_final_message(), written)


def _message(said: Any, written: dict[int, str] | None = None) -> Said:
    """`written`: the calls' arguments, by the places of their blocks, as the stream has them."""
    texts = written or {}
    text = [block.text for block in said.content if block.type == "text"]
    calls = [
        (block.id, block.name, texts.get(place, json.dumps(block.input)))
        for place, block in enumerate(said.content)
        if block.type == "tool_use"
    ]
    usage = said.usage
    cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    return Said(
        text="".join(text),
        calls=calls,
        thought="".join(block.thinking for block in said.content if block.type == "thinking"),
        blocks=list(_thoughts(said.content)),
        refusal="",
        parts=list(_merged(map(_kind, said.content))),
        finish=REASONS[said.stop_reason],
        usage=(usage.input_tokens + cached, usage.output_tokens, usage.cache_read_input_tokens or 0, 0),
        model=said.model,
    )


def _thoughts(blocks: Any) -> Iterator[tuple[str, str | None, str | None]]:
    for block in blocks:
        if block.type == "thinking" and block.signature:
            yield block.thinking, block.signature, None
        if block.type == "redacted_thinking":
            yield "", None, block.data


def _kind(block: Any) -> str:
    if block.type in ("thinking", "redacted_thinking"):
        return "reasoning"
    kinds = {"tool_use": "call"} | ({"text": "text"} if getattr(block, "text", None) else {})
    return kinds.get(block.type, "")


def _merged(kinds: Iterator[str]) -> Iterator[str]:
    """Texts with nothing of ours between them are one."""
    last = ""
    for kind in filter(None, kinds):
        if kind != "text" or last != "text":
            yield kind
        last = kind


def _ollama(exchange: Exchange) -> Said:
    client = ollama.Client(host="http://far", transport=transport(exchange))
    asked: Any = {"model": "m", "messages": [USER]}
    said = list(client.chat(**asked, stream=True)) if exchange.is_streamed else [client.chat(**asked)]
    text = "".join(piece.message.content or "" for piece in said)
    thought = "".join(piece.message.thinking or "" for piece in said)
    called = [call.function for piece in said for call in piece.message.tool_calls or ()]
    parts = [kind for kind, is_there in (("reasoning", thought), ("text", text)) if is_there]
    last = said[-1]
    return Said(
        text=text,
        calls=[("", call.name, json.dumps(call.arguments)) for call in called],
        thought=thought,
        blocks=[],
        refusal="",
        parts=[*parts, *["call"] * len(called)],
        finish=last.done_reason or "",
        usage=(last.prompt_eval_count, last.eval_count, 0, 0),
        model=last.model,
    )


READERS = {"openai": _openai, "claude": _claude, "ollama": _ollama}
