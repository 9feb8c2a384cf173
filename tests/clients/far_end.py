"""A far end that calls what it is offered and answers what comes back, on each wire as dialects record it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from faults.upstreams import UNTIL_CLOSED, Peer

from .clients import RESULT

ANSWER = ("It is 18 degrees", " there.")
CITIES = ("Paris", "Rome")
FILLED = {"unit": "c", "answer": "18 degrees"}


@dataclass(frozen=True)
class Asked:
    """What a request says of tools, whichever its wire: schemas by name, whether one must be called, and one only."""

    prompt: str
    tools: Mapping[str, Any]
    must: bool
    has_result: bool
    one_only: bool = False

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """The first tool for each city asked about; beside a result nothing, or the last if one must be called."""
        if not self.tools or (self.has_result and not self.must):
            return []
        name = [*self.tools][-1 if self.has_result else 0]
        cities = [city for city in CITIES if city in self.prompt][: 1 if self.one_only or self.must else None]
        fields = self.tools[name]["properties"]
        filled = ({"city": city} | FILLED for city in cities)
        return [(name, {field: each[field] for field in fields if field in each}) for each in filled]


def show(peer: Peer) -> None:
    """Answer what is not a prompt, whichever the wire."""
    said = {"data": [], "models": [{"name": "far:latest"}], "capabilities": ["completion", "tools"]}
    peer.send(UNTIL_CLOSED + json.dumps(said).encode())


def openai(peer: Peer) -> None:
    wish = peer.wish
    choice, tools = wish.get("tool_choice", "auto"), _schemas(wish, "parameters")
    if isinstance(choice, dict):
        tools = {choice["function"]["name"]: tools[choice["function"]["name"]]}
    must, one_only = choice not in ("auto", "none"), not wish.get("parallel_tool_calls", True)
    calls = Asked(_prompt(wish), tools, must, _has_result(wish), one_only).calls()
    finish = "tool_calls" if calls else "stop"
    if not wish.get("stream"):
        made = [
            {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for n, (name, given) in enumerate(calls)
        ]
        message = {"role": "assistant", "content": None, "tool_calls": made} if calls else _said("".join(ANSWER))
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        choices = [{"index": 0, "message": message, "finish_reason": finish}]
        _send(peer, {"object": "chat.completion", "model": "far", "choices": choices, "usage": usage})
        return
    deltas: list[Any] = [{"role": "assistant", "content": None}]
    for n, (name, given) in enumerate(calls):
        function = {"name": name, "arguments": ""}
        deltas.append({"tool_calls": [{"index": n, "id": f"call_{n}", "type": "function", "function": function}]})
        deltas += [{"tool_calls": [{"index": n, "function": {"arguments": part}}]} for part in _parts(given)]
    deltas += [] if calls else [{"content": piece} for piece in ANSWER]
    frames = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    frames.append({"index": 0, "delta": {}, "finish_reason": finish})
    _send_events(
        peer,
        [
            *({"object": "chat.completion.chunk", "model": "far", "choices": [frame]} for frame in frames),
            {"choices": [], "model": "far", "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}},
        ],
    )
    peer.send(b"data: [DONE]\n\n")


def claude(peer: Peer) -> None:
    wish = peer.wish
    choice = wish.get("tool_choice", {"type": "auto"})
    tools = {tool["name"]: tool["input_schema"] for tool in wish.get("tools", ())}
    if "name" in choice:
        tools = {choice["name"]: tools[choice["name"]]}
    must, one_only = choice["type"] in ("any", "tool"), choice.get("disable_parallel_tool_use", False)
    calls = Asked(_prompt(wish), tools, must, _has_result(wish), one_only).calls()
    usage = {"input_tokens": 7, "output_tokens": 3}
    end = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    blocks: list[Any] = [{"type": "text", "text": "I look it up." if calls else "".join(ANSWER)}]
    blocks += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": given} for n, (name, given) in enumerate(calls)
    ]
    if not wish.get("stream"):
        _send(peer, {"type": "message", "role": "assistant", "model": "far", "content": blocks, "usage": usage} | end)
        return
    _send_events(
        peer,
        [
            {"type": "message_start", "message": {"model": "far", "usage": usage}},
            {"type": "ping"},
            *(event for n, block in enumerate(blocks) for event in _block(n, block)),
            {"type": "message_delta", "delta": end, "usage": usage},
            {"type": "message_stop"},
        ],
    )


def _block(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    is_text = block["type"] == "text"
    begun = {"text": ""} if is_text else {"input": {}}
    yield {"type": "content_block_start", "index": index, "content_block": {**block, **begun}}
    deltas = (
        [{"type": "text_delta", "text": block["text"]}]
        if is_text
        else [{"type": "input_json_delta", "partial_json": part} for part in ("", *_parts(block["input"]))]
    )
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def ollama(peer: Peer) -> None:
    wish = peer.wish
    # what forces a call there is a format
    calls = Asked(_prompt(wish), _schemas(wish, "parameters"), "format" in wish, _has_result(wish)).calls()
    made = [
        {"id": f"call_{n}", "function": {"index": n, "name": name, "arguments": given}}
        for n, (name, given) in enumerate(calls)
    ]
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3}
    said = [{"role": "assistant", "content": "", "tool_calls": made}] if calls else list(map(_said, ANSWER))
    if not wish["stream"]:
        whole = said[0] if calls else _said("".join(ANSWER))
        _send(peer, {"model": "far", "message": whole} | end)
        return
    lines = [{"model": "far", "message": each, "done": False} for each in said]
    lines.append({"model": "far", "message": _said("")} | end)
    peer.send(UNTIL_CLOSED + b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def _schemas(wish: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {tool["function"]["name"]: tool["function"][name] for tool in wish.get("tools", ())}


def _has_result(wish: Mapping[str, Any]) -> bool:
    # in whatever message: smolagents puts it into a user's
    return RESULT in json.dumps(wish["messages"])


def _prompt(wish: Mapping[str, Any]) -> str:
    return json.dumps([message["content"] for message in wish["messages"] if message["role"] == "user"])


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _parts(given: Mapping[str, Any]) -> list[str]:
    text = json.dumps(given)
    return [text[:7], text[7:]]


def _send(peer: Peer, body: object) -> None:
    peer.send(UNTIL_CLOSED + json.dumps(body).encode())


def _send_events(peer: Peer, bodies: Iterable[dict[str, Any]]) -> None:
    peer.send(UNTIL_CLOSED)
    for body in bodies:
        name = f"event: {body['type']}\n" if "type" in body else ""
        peer.send(f"{name}data: {json.dumps(body)}\n\n".encode())
