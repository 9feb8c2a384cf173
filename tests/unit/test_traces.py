"""Spans of OpenTelemetry, as the official exporter for tests gets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from asking import Log, Serve
from fakes import Fake
from flask import Flask
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from providers import AT_ONCE, FarEnd, openai_answer, openai_stream

from llm_api import LLMAPI
from llm_api.errors import Overloaded
from llm_api.types import Chunk, Usage

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=canary"}
FAR_END = {"llm_backend": "openai", "openai_base_url": "http://far.test/v1", "traces": True}
URL = "http://far.test/v1/chat/completions"

Spans = Callable[[], list[ReadableSpan]]


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """What a host that has a tracer provider of its own gets; a process can have only one, also in two sessions."""
    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Spans:
    """Return what has ended since the test began, first what ended first."""
    exporter.clear()
    return lambda: list(exporter.get_finished_spans())


def test_a_request_and_its_attempts(serve: Serve, spans: Spans, log_lines: Log) -> None:
    """One span for the request, as a part of the caller's trace, and one below it for each attempt."""
    client = serve(Fake("one", Overloaded("busy")), Fake("two"), traces=True)
    assert client.post("/generate", json={"prompt": "x", "seed": 7}, headers=HEADERS).status_code == 200
    failed, served, whole = spans()
    assert [span.name for span in (failed, served, whole)] == ["chat one-model", "chat two-model", "generate"]
    assert [span.kind for span in (failed, served, whole)] == [SpanKind.CLIENT, SpanKind.CLIENT, SpanKind.SERVER]
    assert whole.parent
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert {span.parent.span_id for span in (failed, served) if span.parent} == {whole.context.span_id}
    assert {f"{span.context.trace_id:032x}" for span in (failed, served, whole)} == {TRACE}
    assert dict(failed.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "one",
        "gen_ai.request.model": "one-model",
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": False,
        "error.type": "overloaded",
    }
    assert (failed.status.status_code, served.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    line = log_lines()[0]
    told = dict(whole.attributes or {})
    assert told.pop("gen_ai.response.time_to_first_chunk") == line["time_to_first_chunk_ms"] / 1000
    assert told == {
        "llm_api.request_id": line["request_id"],
        "llm_api.status": "ok",
        "llm_api.fallback_reason": "overloaded",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "two",
        "gen_ai.response.model": "two-model",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "http.response.status_code": 200,
    }


def test_the_provider_is_told(serve: Serve, spans: Spans, far_end: FarEnd) -> None:
    """Each call has the traceparent of its attempt and the caller's tracestate; one after it has none of them."""
    far_end.post(URL, status=500, json={}, headers=AT_ONCE)
    far_end.post(URL, json=openai_answer("Hi"))
    client = serve(**FAR_END, max_retries=1)
    client.post("/generate", json={"prompt": "x"}, headers=HEADERS)
    attempts = [span for span in spans() if span.kind is SpanKind.CLIENT]
    asked = [call.request.headers for call in far_end.calls]
    sent = [f"00-{TRACE}-{span.context.span_id:016x}-01" for span in attempts]
    assert [headers["traceparent"] for headers in asked] == sent
    assert {headers["tracestate"] for headers in asked} == {HEADERS["tracestate"]}
    assert len(sent) == 2
    client.get("/v1/models")
    assert "traceparent" not in far_end.calls[-1].request.headers


def test_a_stream(serve: Serve, spans: Spans, far_end: FarEnd) -> None:
    """A stream's attempt ends with it, and has its usage."""
    far_end.post(URL, body=openai_stream("Hel", "lo"), content_type="text/event-stream")
    body = {"model": "default", "messages": [{"role": "user", "content": "x"}], "stream": True}
    assert serve(**FAR_END).post("/v1/chat/completions", json=body).data
    attempt, whole = spans()
    assert whole.name == "chat"
    for span in (attempt, whole):
        assert (span.attributes or {})["gen_ai.usage.output_tokens"] == 2
        assert (span.attributes or {})["gen_ai.response.model"] == "far-model-1"
    assert (attempt.end_time or 0) <= (whole.end_time or 0)
    assert whole.parent is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_answer(serve: Serve, spans: Spans, stream: bool) -> None:
    """An answer that breaks off fails its attempt and the request; what is said of it has no text."""
    broken = Fake("one", Chunk("canary"), Overloaded("busy", detail="canary"))
    serve(broken, traces=True).post("/generate", json={"prompt": "canary", "stream": stream}).get_data()
    assert {span.status.status_code for span in spans()} == {StatusCode.ERROR}
    assert {(span.attributes or {})["error.type"] for span in spans()} == {"overloaded"}
    assert "canary" not in "".join(span.to_json() for span in spans())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [({"prompt": ""}, 422, "validation_failed"), ({"prompt": "x", "model": "a/b"}, 200, None)],
)
def test_a_callers_fault(serve: Serve, spans: Spans, body: dict[str, str], status: int, code: str | None) -> None:
    """A request that is refused is no failure of the service, and has no attempt."""
    assert serve(Fake("one"), traces=True).post("/generate", json=body).status_code == status
    *attempts, whole = spans()
    told = whole.attributes or {}
    assert (told["http.response.status_code"], told.get("error.type")) == (status, code)
    assert whole.status.status_code is StatusCode.UNSET
    assert len(attempts) == (status == 200)


def test_texts(serve: Serve, spans: Spans) -> None:
    """With TRACE_TEXTS a request's span has what the log has, as the conventions want it; else no word."""
    body = {"prompt": "canary", "system": "canary too"}
    for settings in ({}, {"trace_texts": True, "log_prompts": False}):
        serve(Fake("one", Chunk("the answer")), traces=True, **settings).post("/generate", json=body)
    said = "".join(span.to_json() for span in spans())
    assert "canary" not in said
    assert "the answer" not in said
    serve(Fake("one"), traces=True, trace_texts=True).post("/generate", json=body)
    told = spans()[-1].attributes or {}
    assert json.loads(str(told["gen_ai.input.messages"])) == [
        {"role": "system", "parts": [{"type": "text", "content": "canary too"}]},
        {"role": "user", "parts": [{"type": "text", "content": "canary"}]},
    ]
    assert json.loads(str(told["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "one"}]}
    ]


def test_vectors(serve: Serve, spans: Spans) -> None:
    """A request for vectors is no chat, and its texts are never in a span."""
    backend = Fake("one")
    backend.vector = lambda text: [0.5]
    client = serve(backend, traces=True, trace_texts=True)
    assert client.post("/v1/embeddings", json={"model": "one-embed", "input": "canary"}).status_code == 200
    attempt, whole = spans()
    assert (attempt.name, (whole.attributes or {})["gen_ai.operation.name"]) == ("embeddings one-embed", "embeddings")
    assert "canary" not in whole.to_json()
    assert [name for name in whole.attributes or {} if name.endswith(".messages")] == []


def test_a_conversation_with_tools(serve: Serve, spans: Spans) -> None:
    """A call and its result have the parts that the conventions have for them."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "add"}}
    turns = [
        *({"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}),
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    one = Fake("one")
    one.serves = frozenset({"tools"})  # type: ignore[misc]
    body = {"model": "default", "messages": turns, "tools": [tool]}
    serve(one, traces=True, trace_texts=True).post("/v1/chat/completions", json=body)
    told = json.loads(str((spans()[-1].attributes or {})["gen_ai.input.messages"]))
    assert [part for message in told[1:] for part in message["parts"]] == [
        {"type": "tool_call", "id": "c1", "name": "add", "arguments": "{}"},
        {"type": "tool_call_response", "id": "c1", "response": "42"},
    ]


def test_providers_are_called_as_the_conventions_call_them(serve: Serve, spans: Spans) -> None:
    """Claude's is anthropic, in both spans."""
    serve(Fake("claude"), traces=True).post("/generate", json={"prompt": "x"})
    assert {(span.attributes or {})["gen_ai.provider.name"] for span in spans()} == {"anthropic"}


def test_in_the_hosts_span(make_app: Callable[..., Flask], spans: Spans) -> None:
    """Inside a span of the host's own, the request's is a part of that, whatever header came."""
    here = LLMAPI.of(make_app(Fake("one"), traces=True))
    with trace.get_tracer("host").start_as_current_span("host") as outer:
        here.generate("x")
    _, whole, _ = spans()
    assert whole.kind is SpanKind.INTERNAL
    assert whole.parent
    assert whole.parent.span_id == outer.get_span_context().span_id


def test_the_log_has_the_traces_id(serve: Serve, spans: Spans, log_lines: Log) -> None:
    """A line leads to its trace, where the caller sent none too."""
    serve(Fake("one"), traces=True).post("/generate", json={"prompt": "x"})
    assert log_lines()[0]["trace_id"] == f"{spans()[-1].context.trace_id:032x}"


@pytest.mark.parametrize(
    "header",
    [
        *("", "x", f"00-{TRACE}", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-zz", f"00-{TRACE}-{PARENT}-01-x"),
        *(f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", "\xe4" * 55, "9" * 5000),
    ],
)
def test_what_is_no_traceparent(serve: Serve, spans: Spans, log_lines: Log, header: str) -> None:
    """A header that is none begins a trace of its own, and fails nothing (W3C Trace Context, 3.2.2.3)."""
    headers = {"traceparent": header, "tracestate": "vendor=canary"}
    assert serve(Fake("one"), traces=True).post("/generate", json={"prompt": "x"}, headers=headers).status_code == 200
    whole = spans()[-1]
    assert whole.parent is None
    assert not whole.context.trace_state
    assert log_lines()[0]["trace_id"] == f"{whole.context.trace_id:032x}" != TRACE


def test_off(serve: Serve, spans: Spans, far_end: FarEnd) -> None:
    """Without TRACES there are no spans, and a provider is told of no trace."""
    far_end.post(URL, json=openai_answer("Hi"))
    serve(**FAR_END | {"traces": False}).post("/generate", json={"prompt": "x"}, headers=HEADERS)
    assert spans() == []
    assert "traceparent" not in far_end.calls[0].request.headers


def test_missing_packages(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACES without its packages ends the start with what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match="pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"):
        serve(traces=True)


def test_usage_of_a_thinking_model(serve: Serve, spans: Spans) -> None:
    """Counts that few providers have are there too."""
    usage = Usage(9, 5, cached_tokens=4, reasoning_tokens=3)
    serve(Fake("one", Chunk("x", "stop", usage)), traces=True).post("/generate", json={"prompt": "x"})
    told = spans()[-1].attributes or {}
    assert told["gen_ai.usage.cache_read.input_tokens"] == 4
    assert told["gen_ai.usage.reasoning.output_tokens"] == 3
