"""What is peculiar to each wire: its words for a request, and what may come back. test_wires.py goes through it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from asking import USER
from providers import (
    CLAUDE,
    HUGGING_FACE,
    OLLAMA,
    OPENAI,
    SCHEMA,
    Fault,
    Provider,
    claude_answer,
    claude_end,
    claude_error,
    claude_event,
    claude_start,
    claude_stream,
    claude_text,
    delta,
    event,
    ollama_answer,
    ollama_line,
    ollama_stream,
    openai_answer,
    openai_error,
    openai_stream,
    openai_usage,
)

SYSTEM = [{"role": "system", "content": "Be brief."}, USER]
LATER = {"retry-after": "7"}
Json = dict[str, Any]
Changes = list[tuple[Json, Any]]


@dataclass(frozen=True)
class Wire:
    """One wire. A pair has what is sent or comes, and what it must become; the keys of a dict name its cases.

    `always` and `streamed` are what a request has beside its model, and what a streamed one changes. Changes to a whole
    answer leave a field out where they say `...`. `ended` gives the changes, and the stream, that end for a reason.
    `long` is a stream that ends for its length, with its counts. `head` begins a stream and has no text. `tails` break
    one off. `spent` names those faults that waiting can't help.
    """

    provider: Provider
    model_setting: str
    default_model: str
    always: Json
    streamed: Json
    parameters: Changes
    ended: Callable[[str | None], tuple[Json, bytes]]
    finish_reasons: list[tuple[str | None, str]]
    usages: Changes
    texts: Changes
    wrong: dict[str, Json]
    head: bytes
    streams: dict[str, bytes]
    long: tuple[bytes, int, int]
    empty: dict[str, bytes]
    tails: dict[str, tuple[bytes, str]]
    faults: dict[str, Fault]
    refusal: tuple[Json, Json]
    listing: Callable[[Any], Json]
    listed: list[Any]
    headers: dict[str, str] = field(default_factory=dict)
    key_headers: dict[str, str] = field(default_factory=dict)
    check_query: str = ""
    list_query: str = ""
    spent: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.provider.name


# OpenAI's, which Hugging Face's router speaks too


STRICT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
OPENAI_PARAMETERS: Changes = [
    ({}, {}),
    ({"temperature": 0}, {"temperature": 0}),
    ({"temperature": 2}, {"temperature": 2}),
    ({"top_p": 0.5}, {"top_p": 0.5}),
    ({"seed": 0}, {"seed": 0}),
    ({"stop": "END"}, {"stop": ["END"]}),
    ({"stop": ["a", "b", "c", "d"]}, {"stop": ["a", "b", "c", "d"]}),
    ({"stop": []}, {}),
    ({"model": "gpt-4.1"}, {"model": "gpt-4.1"}),
    ({"system": "Be brief."}, {"messages": SYSTEM}),
    ({"system": ""}, {}),
    *(({"response_format": said}, {"response_format": said}) for said in ({"type": "json_object"}, STRICT)),
    (
        {"response_format": SCHEMA},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
    ),
]


def openai_ended(said: str | None) -> tuple[Json, bytes]:
    stream = b"".join([delta("x"), delta(None, said), openai_usage(), DONE])
    return {"choices": openai_answer("x", finish_reason=said)["choices"]}, stream


OPENAI_REASONS = [
    *((said, said) for said in ("stop", "length", "content_filter")),
    ("STOP", "stop"),
    ("COMPLETE", "stop"),
    ("eos_token", "stop"),
    ("eos", "stop"),
    ("stop_sequence", "stop"),
    ("end_turn", "stop"),
    ("MAX_TOKENS", "length"),
    ("max_tokens", "length"),
    ("model_length", "length"),
    ("SAFETY", "content_filter"),
    ("RECITATION", "content_filter"),
    ("PROHIBITED_CONTENT", "content_filter"),
    ("content-filter", "content_filter"),
    ("ERROR_TOXIC", "content_filter"),
    ("sensitive", "content_filter"),
]
# What no wire's finish reason is: vLLM's and SGLang's `abort`, OpenRouter's `error`, DeepSeek's, Zhipu's, Cohere's.
UNKNOWN_REASONS = [
    *(None, "", "something_new", "abort", "aborted", "error", "ERROR", "insufficient_system_resource"),
    *("network_error", "USER_CANCEL", "ERROR_LIMIT", "unknown", "null", "None", "OTHER", "load", "unload"),
]


def uncounted(name: str, *others: str) -> list[tuple[Json, tuple[None, None]]]:
    """Return usages whose count `name` is none, and the others are there; what is not counted is not known."""
    counts = (5.0, "5", -1, float("nan"), [1], {"a": 1}, True, 2**60)
    return [({"usage": dict.fromkeys(others, None) | {name: count}}, (None, None)) for count in counts]


OPENAI_USAGES: Changes = [
    ({"usage": None}, (None, None)),
    ({"usage": {}}, (None, None)),
    ({"usage": "none"}, (None, None)),
    ({"usage": [1]}, (None, None)),
    *uncounted("prompt_tokens"),
    *uncounted("completion_tokens"),
    ({"usage": {"prompt_tokens": 3, "completion_tokens": "5"}}, (3, None)),
    ({"usage": {"prompt_tokens": 3}}, (3, None)),
    ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, (0, 0)),
]


def openai_choice(**changes: Any) -> Json:
    """Return the change of an answer's one choice."""
    return {"choices": openai_answer("x", **changes)["choices"]}


# Mistral's parts: what it thought, and what it refers to, is no text.
MAGISTRAL = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": "Hel"},
    {"type": "reference", "reference_ids": [1]},
    {"type": "text", "text": "lo"},
]
OPENAI_TEXTS: Changes = [
    (openai_choice(message={"role": "assistant"} | message), text)
    for message, text in [
        ({"content": ""}, ""),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "refusal": "I can't."}, "I can't."),
        ({"content": "a\u2028b\x00", "reasoning_content": "hm"}, "a\u2028b\x00"),
        ({"content": [{"type": "text", "text": "x"}]}, "x"),
        ({"content": []}, ""),
        ({"content": MAGISTRAL}, "Hello"),
    ]
]
OPENAI_WRONG = {
    "empty": {},
    "no choices": {"choices": []},
    "null choices": {"choices": None},
    "null choice": {"choices": [None]},
    "no message": {"choices": [{}]},
    "null message": openai_answer("x", message=None),
    "text message": openai_answer("x", message="x"),
    "number as content": openai_answer("x", message={"content": 5}),
    "list as parts": openai_answer("x", message={"content": ["x"]}),
    "part without text": openai_answer("x", message={"content": [{"type": "text"}]}),
    "number as finish reason": openai_answer("x", finish_reason={"a": 1}),
    "number as model": openai_answer("x") | {"model": 5},
}
HEAD, TAIL, DONE = delta(""), delta(None, "stop"), event("[DONE]")
HEL, LO = delta("Hel"), delta("lo")


def other_delta(said: Json | None) -> bytes:
    """Return a chunk whose delta is not a text's."""
    return event({"choices": [{"delta": said}]})


OPENAI_STREAMS = {
    "plain": openai_stream("Hel", "lo"),
    "CRLF": openai_stream("Hel", "lo").replace(b"\n", b"\r\n"),
    "no [DONE]": openai_stream("Hel", "lo").removesuffix(DONE),
    "no usage": HEL + LO + TAIL + DONE,
    "only the finish reason": HEL + LO + TAIL,
    "no head": HEL + LO + TAIL + openai_usage() + DONE,
    "comments": b": keep-alive\n\n" + HEL + b":\n\n: more\n" + LO + TAIL + DONE,
    "empty data": HEAD + b"data:\n\n" + HEL + b"data: \n\n" + LO + TAIL + DONE,
    "named events": b"".join(b"event: chunk\nid: 1\nretry: 10\n" + e for e in (HEL, LO, TAIL)),
    "no blank after colon": openai_stream("Hel", "lo").replace(b"data: ", b"data:"),
    "data in two lines": b'data: {"choices": [{"delta":\ndata: {"content": "Hel"}}]}\n\n' + LO + TAIL,
    "null choices": event({"choices": None}) + HEL + event({"choices": []}) + LO + TAIL,
    "null content": other_delta({"content": None}) + HEL + LO + TAIL,
    "null delta": other_delta(None) + HEL + LO + TAIL,
    "reasoning": other_delta({"reasoning": "hm"}) + other_delta({"reasoning_content": "hm"}) + HEL + LO + TAIL,
    "finish with the last text": HEL + delta("lo", "stop") + DONE,
    "obfuscation": delta("Hel", obfuscation="xyz") + delta("lo", service_tier="flex") + TAIL,
    "no error": delta("Hel", error=None) + LO + TAIL,
    "message so far": HEL
    + event({"choices": [{"delta": {"content": "lo"}, "message": {"content": "Hello"}}]})
    + event({"choices": [{"delta": {}, "message": {"content": "Hello"}, "finish_reason": "stop"}]}),
    "empty reasons": delta("Hel", "") + delta("lo", "") + TAIL,
    "success": delta("Hel", message="success", code=0) + LO + TAIL,
    "parts": other_delta({"content": MAGISTRAL[:2]}) + other_delta({"content": MAGISTRAL[2:]}) + TAIL,
    "float as count": HEL + LO + TAIL + event({"choices": [], "usage": {"prompt_tokens": 5.0}}) + DONE,
    "NaN as count": HEL + LO + TAIL + event('{"choices": [], "usage": {"prompt_tokens": NaN}}'),
    "after [DONE]": openai_stream("Hel", "lo") + delta("never read"),
}
OPENAI_TAILS = {
    "cut": (b"", "invalid_answer"),
    "cut in an event": (b'data: {"choices": [{"delta": {"con', "invalid_answer"),
    "unfinished last event": (TAIL.rstrip(b"\n"), "invalid_answer"),
    "not JSON": (event("oops"), "invalid_answer"),
    "array": (event("[1]"), "invalid_answer"),
    "wrong choices": (event({"choices": [5]}), "invalid_answer"),
    "number as content": (other_delta({"content": 5}) + TAIL, "invalid_answer"),
    "list as content": (other_delta({"content": ["x"]}) + TAIL, "invalid_answer"),
    "error": (event(openai_error(None, kind="server_error")), "server_error"),
    "only [DONE]": (DONE, "invalid_answer"),
    "usage and [DONE]": (openai_usage() + DONE, "invalid_answer"),
    "named error": (event(openai_error("x", kind="api_error"), "error"), "server_error"),
    "error object": (event({"object": "error", "message": "CUDA error"}) + DONE, "server_error"),
    "detail": (event({"detail": "Internal Server Error"}) + DONE, "server_error"),
    "error in a choice": (
        event({"choices": [{"delta": {}, "error": {"code": 502, "message": "no"}, "finish_reason": "error"}]}),
        "server_error",
    ),
    "error after the reason": (TAIL + event({"error": {"message": "failed"}}), "server_error"),
    "error as text": (event({"error": "no"}), "server_error"),
    "error without type": (event({"error": {"message": "failed"}}), "server_error"),
    "overloaded": (event(openai_error(None, kind="overloaded_error")), "overloaded"),
    "error that is no event": (json.dumps(openai_error(None, kind="server_error"), indent=1).encode(), "server_error"),
}
OPENAI_FAULTS = {  # docs/providers.md, 3.4
    "400 value": Fault(400, openai_error("unsupported_value", param="messages"), 400, "unsupported_value", False),
    "400 too long": Fault(
        400, openai_error("context_length_exceeded", "too long", "messages"), 400, "context_length_exceeded", False
    ),
    "400 policy": Fault(400, openai_error("content_policy_violation"), 400, "content_policy_violation", False),
    "400 no code": Fault(400, openai_error(None), 400, "invalid_request_error", False),
    "401": Fault(401, openai_error("invalid_api_key"), 502, "bad_credentials"),
    "403": Fault(403, openai_error("unsupported_country_region_territory"), 502, "bad_credentials"),
    "404": Fault(404, openai_error("model_not_found", param="model"), 404, "model_not_found"),
    "409": Fault(409, openai_error(None), 502, "server_error"),
    "429": Fault(429, openai_error("rate_limit_exceeded", kind="requests"), 429, "rate_limited"),
    "429 quota": Fault(429, openai_error("insufficient_quota", kind="insufficient_quota"), 503, "rate_limited"),
    "429 quota as type": Fault(429, openai_error(None, kind="insufficient_quota"), 503, "rate_limited"),
    "500": Fault(500, openai_error(None, kind="server_error"), 502, "server_error"),
    "503": Fault(503, openai_error(None, "Slow Down"), 503, "overloaded"),
    "201": Fault(201, openai_answer("x"), 502, "invalid_answer"),
}

OPENAI_WIRE = Wire(
    provider=OPENAI,
    model_setting="openai_model",
    default_model="gpt-6-luna",
    always={"stream": False, "messages": [USER]},
    streamed={"stream": True, "stream_options": {"include_usage": True}},
    key_headers={"authorization": f"Bearer {OPENAI.key}"},
    parameters=[*OPENAI_PARAMETERS, ({"max_tokens": 7}, {"max_completion_tokens": 7})],
    ended=openai_ended,
    finish_reasons=OPENAI_REASONS,
    usages=OPENAI_USAGES,
    texts=OPENAI_TEXTS,
    wrong=OPENAI_WRONG,
    head=HEAD,
    streams=OPENAI_STREAMS,
    long=(openai_stream("Hello", finish="length"), 12, 2),
    empty={"whole": HEAD + TAIL + DONE, "only its end": TAIL},
    tails=OPENAI_TAILS,
    faults=OPENAI_FAULTS,
    spent=("429 quota", "429 quota as type"),
    refusal=(openai_error("invalid_value", "no such role", "messages"), {"code": "invalid_value", "param": "messages"}),
    listing=lambda models: {"object": "list", "data": models},
    listed=[{"id": "one", "shutdown_date": None}, {"id": "org/two"}],
)

UNSUPPORTED = "The requested model 'x' is not supported by any provider you have enabled."
HUGGING_FACE_FAULTS = {  # docs/providers.md, 5
    "400 object": Fault(400, {"error": {"message": "no", "code": "bad_thing"}}, 400, "request_refused", False),
    "400 model": Fault(400, {"error": {"message": UNSUPPORTED, "code": "model_not_supported"}}, 404, "model_not_found"),
    "422": Fault(422, {"error": "Input validation error", "error_type": "validation"}, 400, "request_refused", False),
    "401": Fault(401, {"error": "Invalid username or password."}, 502, "bad_credentials"),
    "402": Fault(402, {"error": "You have depleted your monthly included credits."}, 503, "rate_limited"),
    "403": Fault(403, {"error": {"message": "This token can't call providers"}}, 502, "bad_credentials"),
    "404": Fault(404, {"error": "Model x does not exist"}, 404, "model_not_found"),
    "404 text": Fault(404, "Not Found", 502, "invalid_answer"),
    "410": Fault(410, {"error": "use router.huggingface.co"}, 502, "invalid_answer"),
    "429": Fault(429, {"error": "rate limit"}, 429, "rate_limited", headers={"ratelimit": '"api";r=0;t=55'}),
    "500": Fault(500, {"error": {"message": "no", "type": "server_error"}}, 502, "server_error"),
    "503": Fault(503, {"error": "Model is overloaded", "error_type": "overloaded"}, 503, "overloaded"),
}
HUGGING_FACE_WIRE = replace(
    OPENAI_WIRE,
    provider=HUGGING_FACE,
    model_setting="hf_model",
    default_model="openai/gpt-oss-20b",
    key_headers={"authorization": f"Bearer {HUGGING_FACE.key}"},
    parameters=[
        *OPENAI_PARAMETERS,
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"model": "Qwen/Qwen3-4B:groq"}, {"model": "Qwen/Qwen3-4B:groq"}),
        ({"model": "org/gpt-5-like", "max_tokens": 3}, {"model": "org/gpt-5-like", "max_tokens": 3}),
    ],
    finish_reasons=OPENAI_REASONS,
    streams=OPENAI_STREAMS | {"eos_token": HEL + LO + delta("", "eos_token")},
    tails=OPENAI_TAILS
    | {
        "generation": (event({"error": "failed", "error_type": "generation"}), "server_error"),
        "incomplete": (event({"error": "failed", "error_type": "incomplete_generation"}), "server_error"),
        "busy": (event({"error": "busy", "error_type": "overloaded"}), "overloaded"),
    },
    faults=HUGGING_FACE_FAULTS,
    spent=("402",),
    refusal=({"error": "no such role"}, {"code": "request_refused", "param": None}),
    listed=[{"id": "one", "providers": []}, {"id": "org/two"}],
)


# Anthropic's


def claude_ended(said: str | None) -> tuple[Json, bytes]:
    return {"stop_reason": said}, claude_start() + claude_text("x") + claude_end(said)


def claude_delta(kind: str, **fields: Any) -> bytes:
    """Return a delta that carries no text of the answer."""
    return claude_event("content_block_delta", index=0, delta={"type": kind, **fields})


CLAUDE_CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
START, END, PING = claude_start(), claude_end(), claude_event("ping")
CLAUDE_HEL, CLAUDE_LO = claude_text("Hel"), claude_text("lo")
THINKING = (
    claude_event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
    + claude_delta("thinking_delta", thinking="hm")
    + claude_delta("signature_delta", signature="s")
    + claude_event("content_block_stop", index=0)
)
OTHER_DELTAS = (
    claude_delta("citations_delta", citation={})
    + claude_delta("input_json_delta", partial_json="{")
    + claude_delta("something_new")
)
CACHED = {"input_tokens": 5, "cache_creation_input_tokens": 70, "cache_read_input_tokens": 600}
# Input tokens are told at the start, output tokens cumulatively: the last count is the count.
CLAUDE_LONG = (
    claude_event("message_start", message={"model": "far-model-1", "usage": CACHED | {"output_tokens": 1}})
    + CLAUDE_HEL
    + claude_event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 4})
    + CLAUDE_LO
    + claude_end("max_tokens", 9)
)
SPENT = {f"429 {kind}": f"{kind}_spend_limit_reached" for kind in ("contract", "enforced")}
CLAUDE_FAULTS = {  # docs/providers.md, 4.5
    "400": Fault(400, claude_error("invalid_request_error"), 400, "invalid_request_error", False),
    # docs/providers.md, 1.6: too long is context_length_exceeded, and 413 says that by its status
    "400 too long": Fault(
        400, claude_error("invalid_request_error", "prompt is too long: 9 > 8"), 400, "context_length_exceeded", False
    ),
    "413": Fault(413, claude_error("request_too_large"), 400, "context_length_exceeded", False),
    "401": Fault(401, claude_error("authentication_error"), 502, "bad_credentials"),
    "402": Fault(402, claude_error("billing_error"), 503, "rate_limited"),
    "403": Fault(403, claude_error("permission_error"), 502, "bad_credentials"),
    "404": Fault(404, claude_error("not_found_error", "model: claude-3-sonnet-20240229"), 404, "model_not_found"),
    "409": Fault(409, claude_error("conflict_error"), 502, "server_error"),
    "429": Fault(429, claude_error("rate_limit_error"), 429, "rate_limited", headers=LATER),
    "429 spent": Fault(429, claude_error("rate_limit_error"), 503, "rate_limited"),
    **{
        name: Fault(429, claude_error("rate_limit_error", error_code=code), 503, "rate_limited", headers=LATER)
        for name, code in SPENT.items()
    },
    "429 odd details": Fault(429, {"error": {"details": "x"}}, 429, "rate_limited", headers=LATER),
    "500": Fault(500, claude_error("api_error"), 502, "server_error"),
    "504": Fault(504, claude_error("timeout_error"), 504, "timeout"),
    "529": Fault(529, claude_error("overloaded_error"), 503, "overloaded"),
}
CLAUDE_WIRE = Wire(
    provider=CLAUDE,
    model_setting="claude_model",
    default_model="claude-haiku-5-5",
    always={"max_tokens": 4096, "stream": False, "messages": [USER]},
    streamed={"stream": True},
    headers={"anthropic-version": "2023-06-01"},
    key_headers={"x-api-key": CLAUDE.key or ""},
    parameters=[
        ({}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": 1}, {"temperature": 1}),
        ({"temperature": 1.01}, {"temperature": 1}),
        ({"temperature": 2}, {"temperature": 1}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"seed": 5}, {}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"model": "claude-sonnet-5-5"}, {"model": "claude-sonnet-5-5"}),
        ({"system": "Be brief."}, {"system": "Be brief."}),
        ({"system": ""}, {}),
        ({"response_format": SCHEMA}, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    ],
    ended=claude_ended,
    finish_reasons=[
        *((said, "stop") for said in ("end_turn", "stop_sequence")),
        *((said, "length") for said in ("max_tokens", "model_context_window_exceeded", "pause_turn")),
        ("refusal", "content_filter"),
    ],
    usages=[  # what was read from and written to the cache counts as input (docs/providers.md, 1.4)
        ({"usage": {"input_tokens": 5, "output_tokens": 3}}, (5, 3)),
        ({"usage": CACHED}, (675, None)),
        ({"usage": CACHED | {"cache_creation_input_tokens": None, "cache_read_input_tokens": None}}, (5, None)),
        ({"usage": {"input_tokens": 0, "output_tokens": 0}}, (0, 0)),
        ({"usage": {"output_tokens": 3}}, (None, 3)),
        ({"usage": {}}, (None, None)),
        ({"usage": None}, (None, None)),
        ({"usage": "none"}, (None, None)),
        *uncounted("input_tokens"),
        *uncounted("output_tokens"),
        *uncounted("cache_read_input_tokens"),
        ({"usage": CACHED | {"cache_read_input_tokens": "600", "output_tokens": 3}}, (None, 3)),
    ],
    texts=[
        ({"content": content}, text)
        for content, text in [
            ([], ""),
            ([{"type": "text", "text": ""}], ""),
            ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
            ([{"type": "thinking", "thinking": "hm"}], ""),
            ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}], "a"),
            ([{"type": "something_new"}, {"type": "text", "text": "a\u2028b", "citations": None}], "a\u2028b"),
        ]
    ],
    wrong={
        "empty": {},
        "null content": claude_answer("x", content=None),
        "text as content": claude_answer("x", content="x"),
        "null block": claude_answer("x", content=[None]),
        "block without type": claude_answer("x", content=[{"text": "x"}]),
        "block without text": claude_answer("x", content=[{"type": "text"}]),
        "number as text": claude_answer("x", content=[{"type": "text", "text": 5}]),
        "list as stop reason": claude_answer("x", stop_reason=["end_turn"]),
        "call": claude_answer("", content=[CLAUDE_CALL]),
        "call without id": claude_answer("", content=[{"type": "tool_use", "name": "f", "input": {}}]),
        "call with a text": claude_answer("", content=[CLAUDE_CALL | {"input": "{}"}]),
        "number as thought": claude_answer("x", content=[{"type": "thinking", "thinking": 5}]),
        "reason without a call": claude_answer("x", stop_reason="tool_use"),
        "number as model": claude_answer("x", model=5),
    },
    head=START,
    streams={
        "plain": claude_stream("Hel", "lo"),
        "CRLF": claude_stream("Hel", "lo").replace(b"\n", b"\r\n"),
        "pings": PING + START + PING + CLAUDE_HEL + PING + PING + CLAUDE_LO + PING + END,
        "thinking": START + THINKING + CLAUDE_HEL + CLAUDE_LO + END,
        "other deltas": START + CLAUDE_HEL + OTHER_DELTAS + CLAUDE_LO + END,
        "unknown events": START + CLAUDE_HEL + claude_event("something_new", x=1) + CLAUDE_LO + END,
        "comments": b": hello\n\n" + START + CLAUDE_HEL + b":\n" + CLAUDE_LO + END,
        "empty data": START + CLAUDE_HEL + b"event: ping\ndata:\n\n" + CLAUDE_LO + END,
        "no event names": claude_stream("Hel", "lo").replace(b"event: ", b": "),
        "no blank after colon": claude_stream("Hel", "lo").replace(b": {", b":{"),
        "more after the end": claude_stream("Hel", "lo") + claude_text("never read"),
        "empty delta": START + CLAUDE_HEL + claude_text("") + CLAUDE_LO + END,
        "float as count": START + CLAUDE_HEL + CLAUDE_LO + claude_end(output_tokens=5.0),  # type: ignore[arg-type]
        "list as count": START + CLAUDE_HEL + CLAUDE_LO + claude_end(output_tokens=[1]),  # type: ignore[arg-type]
    },
    long=(CLAUDE_LONG, 675, 9),
    empty={"no text": START + END, "only thinking": START + THINKING + END},
    tails={
        "cut": (b"", "invalid_answer"),
        "no message_stop": (END.removesuffix(claude_event("message_stop")), "invalid_answer"),
        "unfinished message_stop": (END.rstrip(b"\n"), "invalid_answer"),
        "not JSON": (event("oops"), "invalid_answer"),
        "array": (event("[1]"), "invalid_answer"),
        "no type": (event({"delta": {}}), "invalid_answer"),
        "no delta": (claude_event("content_block_delta"), "invalid_answer"),
        "number as text": (claude_delta("text_delta", text=5) + END, "invalid_answer"),
        "api_error": (CLAUDE.broken, "server_error"),
        "overloaded": (claude_event("error", error={"type": "overloaded_error", "message": "x"}), "overloaded"),
        "error without more": (claude_event("error"), "server_error"),
    },
    faults=CLAUDE_FAULTS,
    spent=("402", "429 spent", *SPENT),
    refusal=(claude_error("invalid_request_error", "no such role"), {"code": "invalid_request_error", "param": None}),
    check_query="?limit=1",
    list_query="?limit=1000",
    listing=lambda models: {"data": models, "has_more": False},
    listed=[{"type": "model", "id": "one"}, {"id": "org/two"}],
)


# Ollama's


def ollama_ended(said: str | None) -> tuple[Json, bytes]:
    end = ollama_answer("", done_reason=said)
    return {"done_reason": said}, ollama_line("x") + json.dumps(end).encode() + b"\n"


OLLAMA_PLAIN = ollama_stream("Hel", "lo")
OLLAMA_THINKING = ollama_line("", message={"role": "assistant", "content": "", "thinking": "hm"})
OLLAMA_CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
OLLAMA_WIRE = Wire(
    provider=OLLAMA,
    model_setting="ollama_model",
    default_model="llama2",
    always={"stream": False, "think": False, "truncate": False, "shift": False, "messages": [USER]},
    streamed={"stream": True},
    parameters=[
        ({}, {}),
        ({"max_tokens": 7}, {"options": {"num_predict": 7}}),
        ({"temperature": 0}, {"options": {"temperature": 0}}),
        ({"temperature": 1.5}, {"options": {"temperature": 1.5}}),
        ({"top_p": 0.5}, {"options": {"top_p": 0.5}}),
        ({"seed": 0}, {"options": {"seed": 0}}),
        ({"stop": "END"}, {"options": {"stop": ["END"]}}),
        ({"stop": ["a", "b"]}, {"options": {"stop": ["a", "b"]}}),
        ({"stop": []}, {}),
        ({"model": "gemma4"}, {"model": "gemma4"}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        ({"response_format": SCHEMA}, {"format": SCHEMA}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, {"format": SCHEMA}),
        ({"system": "Be brief."}, {"messages": SYSTEM}),
        ({"system": ""}, {}),
        (
            {"max_tokens": 9, "temperature": 0.2, "top_p": 0.9, "seed": 3, "stop": "x"},
            {"options": {"num_predict": 9, "temperature": 0.2, "top_p": 0.9, "seed": 3, "stop": ["x"]}},
        ),
    ],
    ended=ollama_ended,
    finish_reasons=[("stop", "stop"), ("length", "length")],
    usages=[  # a count that Ollama leaves out is null, not 0 and not a failure
        ({"prompt_eval_count": ...}, (None, 2)),
        ({"eval_count": ...}, (12, None)),
        ({"prompt_eval_count": ..., "eval_count": ...}, (None, None)),
        ({"prompt_eval_count": 0, "eval_count": 0}, (0, 0)),
        *(({"eval_count": count}, (12, None)) for count in (5.0, "5", -1, float("nan"), {"a": 1})),
    ],
    texts=[
        ({"message": {"role": "assistant", "content": text, "thinking": "hm"}}, text)
        for text in ("", "a\u2028b\u2029c", "line\nline", "\U0001f600", "\x00")
    ],
    wrong={
        "empty": {},
        "not done": {"message": {"content": "x"}},
        "only done": {"done": True},
        "null message": ollama_answer("x", message=None),
        "text message": ollama_answer("x", message="x"),
        "empty message": ollama_answer("x", message={}),
        **{f"done for {said}": ollama_answer("x", done_reason=said) for said in ("load", "unload", "new", ["stop"])},
        "done for no reason": ollama_answer("x", done_reason=None),
        "call": ollama_answer("", message=OLLAMA_CALL),
        "done is false": ollama_answer("x", done=False),
        "null content": ollama_answer("x", message={"content": None}),
        "number as content": ollama_answer("x", message={"content": 5}),
        "list as content": ollama_answer("x", message={"content": ["x"]}),
        "object as model": ollama_answer("x", model={"name": "x"}),
    },
    head=ollama_line(""),
    streams={
        "plain": OLLAMA_PLAIN,
        "CRLF": OLLAMA_PLAIN.replace(b"\n", b"\r\n"),
        "blank lines": OLLAMA_PLAIN.replace(b"\n", b"\n\n"),
        "no last newline": OLLAMA_PLAIN.rstrip(b"\n"),
        "thinking first": OLLAMA_THINKING + OLLAMA_PLAIN,
        "more after the end": OLLAMA_PLAIN + ollama_line("never read"),
        "text in the last line": ollama_line("Hel") + json.dumps(ollama_answer("lo")).encode(),
    },
    long=(ollama_line("Hello") + json.dumps(ollama_answer("", done_reason="length")).encode(), 12, 2),
    empty={"no text": ollama_stream(), "only thinking": OLLAMA_THINKING + ollama_stream()},
    tails={
        "cut": (b"", "invalid_answer"),
        "not JSON": (b"not JSON\n", "invalid_answer"),
        "array": (b"[1]\n", "invalid_answer"),
        "empty": (b"{}\n", "invalid_answer"),
        "number": (b'{"message":{"content":5},"done":false}\n', "invalid_answer"),
        "null": (b'{"message":{"content":null},"done":false}\n', "invalid_answer"),
        "error": (OLLAMA.broken, "server_error"),
        "load": (json.dumps(ollama_answer("", done_reason="load")).encode(), "invalid_answer"),
        "done for no reason": (ollama_line("", done=True), "invalid_answer"),
        "call": (ollama_line("", message=OLLAMA_CALL) + json.dumps(ollama_answer("")).encode(), "invalid_answer"),
    },
    faults={  # docs/providers.md, 2.4
        "400 thinking": Fault(400, {"error": '"m" does not support thinking'}, 400, "request_refused", False),
        "401": Fault(401, {"error": "unauthorized", "signin_url": "https://o"}, 502, "bad_credentials"),
        "403": Fault(403, {"error": "cloud is disabled"}, 502, "bad_credentials"),
        "429": Fault(429, {"error": "too many requests"}, 429, "rate_limited"),
        "499": Fault(499, {"error": "request cancelled"}, 502, "invalid_answer"),
        "500": Fault(500, {"error": "model runner has unexpectedly stopped"}, 502, "server_error"),
        "502": Fault(502, {"error": "cloud unreachable"}, 502, "server_error"),
        "503": Fault(503, {"error": "server busy, please try again.  maximum pending requests"}, 503, "overloaded"),
    },
    refusal=({"error": "no such\n  role"}, {"code": "request_refused", "param": None}),
    listing=lambda models: {"models": models},
    listed=[{"name": "one:latest", "model": "one:latest"}, {"name": "org/two"}],
)

WIRES = (OPENAI_WIRE, CLAUDE_WIRE, OLLAMA_WIRE, HUGGING_FACE_WIRE)
# Error replies that say no more than their status, which holds for all.
FAULTS = {
    "400 HTML": Fault(400, "<html>Bad Request</html>", 400, "request_refused", False),
    "400 empty": Fault(400, "", 400, "request_refused", False),
    "400 string": Fault(400, {"error": "no"}, 400, "request_refused", False),
    "401 HTML": Fault(401, "<html>Unauthorized</html>", 502, "bad_credentials"),
    "401 empty": Fault(401, "", 502, "bad_credentials"),
    "403 empty": Fault(403, "", 502, "bad_credentials"),
    "404 HTML": Fault(404, "<html>Not Found</html>", 502, "invalid_answer"),
    "405": Fault(405, "", 502, "invalid_answer"),
    "408": Fault(408, "", 502, "server_error"),
    "413 HTML": Fault(413, "<html>Too Large</html>", 400, "context_length_exceeded", False),
    "422 list": Fault(422, {"detail": [{"loc": ["body"]}]}, 400, "request_refused", False),
    "429 HTML": Fault(429, "<html>slow down</html>", 429, "rate_limited", headers=LATER),
    "500 string": Fault(500, {"error": "no"}, 502, "server_error"),
    "500 object": Fault(500, {"error": {"message": "no"}}, 502, "server_error"),
    "500 empty": Fault(500, "", 502, "server_error"),
    "502 HTML": Fault(502, "<html>Bad Gateway</html>", 502, "server_error"),
    "503 empty": Fault(503, "", 503, "overloaded"),
    "504 HTML": Fault(504, "<html>Gateway Time-out</html>", 504, "timeout"),
    "520": Fault(520, "<html>", 502, "server_error"),
    "204": Fault(204, "", 502, "invalid_answer"),
}
