"""Reading answers, whole and streamed: lines, server-sent events, JSON, and the reason for which an answer ends."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from ...errors import InvalidAnswer
from ...runtime.deadline import Deadline

# 16 MiB of empty lists became 450 MB of memory.
MAX_BRACKETS = 200_000
MAX_REASON_CHARS = 64

# docs/providers.md, 1.3. In small letters, as some servers write them in capitals.
FINISH_REASONS = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos_token", "eos", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("model_context_window_exceeded", "pause_turn"), "length"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use", "tool_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "content_filtered", "guardrail_intervened", "refusal"), "content_filter"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "prohibited_content", "spii"), "content_filter"),
    **dict.fromkeys(("language", "image_safety", "error_toxic", "sensitive"), "content_filter"),
}

P = ParamSpec("P")
T = TypeVar("T")


def finish_reason(said: object) -> str:
    """Return the reason in OpenAI's words. Raises InvalidAnswer on one that is not known: the answer may be a part."""
    if not said:
        raise InvalidAnswer("the answer does not say why it ended")
    reason = FINISH_REASONS.get(str(said).lower().replace("-", "_"))
    if reason is None:
        raise InvalidAnswer("the answer ended for an unknown reason", detail=str(said)[:MAX_REASON_CHARS])
    return reason


def split_lines(parts: Iterable[bytes], deadline: Deadline) -> Iterator[bytes | None]:
    """Yield lines without their end, None for an empty part: the server is silent.

    Split on the byte alone: text may hold U+2028, which str splits on. `deadline` is told whether an event is left of a
    part. Where what was to leave with that is still held when it turns out to say nothing, None sends it off.
    """
    held: list[bytes] = []
    for part in parts:
        if not part:
            yield None
        *lines, rest = part.split(b"\n")
        last = _last_event(lines)
        for number, line in enumerate(lines):
            deadline.more_in_hand = number < last
            yield b"".join([*held, line]).rstrip(b"\r")
            held.clear()
        if deadline.is_held:
            yield None
        if rest:
            held.append(rest)
    if held:
        yield b"".join(held)


def _last_event(lines: list[bytes]) -> int:
    """Return where the last one ends: at an empty line, in streams that have such, else at the last line."""
    return max((number for number, line in enumerate(lines) if line in (b"", b"\r")), default=len(lines) - 1)


def event_data(lines: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """Yield the data of each server-sent event; comments, empty events and an unfinished last one are dropped.

    The event's name is not needed: every provider repeats it inside the data. (WHATWG HTML, server-sent events.) From
    a server that sends one JSON object instead, mostly an error, that is the data.
    """
    data: list[bytes] = []
    rest = iter(lines)
    for line in rest:
        if line is None:
            yield None
        elif not line:
            if any(data):
                yield b"\n".join(data)
            data.clear()
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"{"):
            yield b"\n".join([line, *filter(None, rest)])


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises InvalidAnswer."""
    if len(data) > MAX_BRACKETS and data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise InvalidAnswer("the answer has too many parts")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidAnswer("the answer is not JSON, or was cut short") from None
    if not isinstance(value, dict):
        raise InvalidAnswer("the answer is not a JSON object")
    return value


def at(value: object, *names: str) -> Any:
    """Return what the objects in `value` have by these names, one in the other; None where one is no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def in_shape(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `read(...)`. Raises InvalidAnswer where the data does not have the shape that `read` expects."""
    try:
        return read(*args, **kwargs)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error) as error:
        raise InvalidAnswer(f"the answer has an unexpected shape ({type(error).__name__})") from error
