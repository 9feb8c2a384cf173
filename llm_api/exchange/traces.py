"""Spans of OpenTelemetry: one for a request, and below it one for each attempt. With TRACES; needs the extra `otel`.

The names are those of the semantic conventions for GenAI, as the package opentelemetry-semantic-conventions 0.66 has
them (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/), and `llm_api.…` for what they lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import strict_json
from ..backends import Backend
from ..backends.base import TRACE_HEADERS
from ..errors import LLMAPIError
from ..log.record import Attempt, End, Record
from ..runtime.per_process import PerProcess
from ..settings import Settings, load
from ..types import EmbeddingRequest, Request, Usage
from .attempts import Attempts

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# Our names of backends that the conventions call otherwise.
PROVIDERS = {"claude": "anthropic"}
PARAMETERS = ("max_tokens", "temperature", "top_p", "seed")
NEEDED = "TRACES needs two packages: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
PACKAGES = ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


class Traces:
    """Begins the spans of requests. Making one raises ConfigError where a package is missing.

    They go to the host's tracer provider; where it has none, by OTLP to where OTEL_EXPORTER_OTLP_ENDPOINT says.
    """

    def __init__(self, settings: Settings) -> None:
        self.redact = settings.redact
        self.shows_texts = settings.trace_texts
        self._is_on = settings.traces
        if self._is_on:
            load(PACKAGES, NEEDED)
        # the exporter has a thread, which a fork would not take along
        self._tracer = PerProcess(_make_tracer)

    def begin(self, record: Record, headers: Mapping[str, str]) -> Attempts:
        """Return what a request's attempts are told to; `headers` are its traceparent and tracestate."""
        return Traced(self, self._tracer(), record, headers) if self._is_on else Attempts()


class Traced(Attempts):
    """The attempts of one request, and the spans of both. The record gets the trace's id."""

    def __init__(self, traces: Traces, tracer: Tracer, record: Record, headers: Mapping[str, str]) -> None:
        from opentelemetry import context, trace

        super().__init__()
        self._traces, self._tracer, self._record = traces, tracer, record
        is_inside = trace.get_current_span().get_span_context().is_valid  # of the host's own span
        around = context.get_current() if is_inside else _propagator().extract(headers)
        kind = trace.SpanKind.INTERNAL if is_inside else trace.SpanKind.SERVER
        self._span = tracer.start_span(record.operation, around, kind, {"llm_api.request_id": record.request_id})
        self._answering: Span | None = None
        record.trace_id = trace.format_trace_id(self._span.get_span_context().trace_id)

    @contextmanager
    def attempt(self, backend: Backend, request: Request) -> Iterator[Attempt]:
        from opentelemetry import trace

        around = trace.set_span_in_context(self._span)
        model = self._traces.redact(request.model or backend.model)
        asked = _asked(backend, model, request)
        span = self._tracer.start_span(f"{_kind(request)} {model}", around, trace.SpanKind.CLIENT, asked)
        before = TRACE_HEADERS.set(_headers(span))
        try:
            with super().attempt(backend, request) as attempt:
                yield attempt
        except Exception:
            _end_attempt(span, attempt)
            raise
        finally:
            TRACE_HEADERS.reset(before)
        self._answering = span

    def over(self, end: End, line: Mapping[str, Any] | None) -> None:
        if self._answering:
            self._answering.set_attributes(_answered(end))
            _end_attempt(self._answering, self.made[-1])
        if self._record.request:
            self._span.set_attribute("gen_ai.operation.name", _kind(self._record.request))
        self._span.set_attributes(_answered(end) | _outcome(end))
        if self._traces.shows_texts and line:
            self._span.set_attributes(_texts(line))
        _fail(self._span, end.error, counts=end.status == "error" and not 400 <= end.http_status < 500)
        self._span.end()


def _kind(request: Request) -> str:
    return "embeddings" if isinstance(request, EmbeddingRequest) else "chat"


def _asked(backend: Backend, model: str, request: Request) -> dict[str, Any]:
    provider = PROVIDERS.get(backend.name, backend.name)
    asked = {"gen_ai.operation.name": _kind(request), "gen_ai.provider.name": provider, "gen_ai.request.model": model}
    if isinstance(request, EmbeddingRequest):
        return asked
    said = {f"gen_ai.request.{name}": value for name in PARAMETERS if (value := getattr(request, name)) is not None}
    return asked | said | {"gen_ai.request.stream": request.stream}


def _answered(end: End) -> dict[str, Any]:
    told = {"gen_ai.response.model": end.head.model} if end.head else {}
    reasons = {"gen_ai.response.finish_reasons": [end.finish_reason]} if end.finish_reason else {}
    return told | reasons | _usage(end.usage)


def _usage(usage: Usage) -> dict[str, int]:
    counts = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read.input_tokens": usage.cached_tokens,
        "reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {f"gen_ai.usage.{name}": count for name, count in counts.items() if count is not None}


def _outcome(end: End) -> dict[str, Any]:
    said: dict[str, Any] = {"http.response.status_code": end.http_status, "llm_api.status": end.status}
    if end.head:
        said["gen_ai.provider.name"] = PROVIDERS.get(end.head.backend, end.head.backend)
        if end.head.fallback_reason:
            said["llm_api.fallback_reason"] = end.head.fallback_reason
    if end.time_to_first_chunk_ms is not None:
        said["gen_ai.response.time_to_first_chunk"] = end.time_to_first_chunk_ms / 1000
    return said


def _texts(line: Mapping[str, Any]) -> dict[str, str]:
    """What was asked and answered, as the log's line has it."""
    if "inputs" in line:
        return {}
    asked = line.get("messages") or [{"role": "user", "content": line.get("prompt")}]
    if line.get("system"):
        asked = [{"role": "system", "content": line["system"]}, *asked]
    answer = {"role": "assistant", "content": line.get("response"), "tool_calls": line.get("tool_calls", ())}
    told = {"input": list(map(_message, asked)), "output": [_message(answer)]}
    return {f"gen_ai.{which}.messages": strict_json.dumps(messages) for which, messages in told.items()}


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    content = said.get("content")
    if "tool_call_id" in said:
        parts = [{"type": "tool_call_response", "id": said["tool_call_id"], "response": content}]
    else:
        parts = [{"type": "text", "content": content}] if content else []
    return {
        "role": said["role"],
        "parts": parts + [{"type": "tool_call", **call} for call in said.get("tool_calls", ())],
    }


def _end_attempt(span: Span, attempt: Attempt) -> None:
    _fail(span, attempt.error, counts=True)
    span.end()


def _fail(span: Span, error: LLMAPIError | None, *, counts: bool) -> None:
    """Note an error; where it `counts`, the span has failed. Its detail, which may quote the prompt, stays out."""
    if error:
        from opentelemetry.trace import StatusCode

        span.set_attribute("error.type", error.code)
        if counts:
            span.set_status(StatusCode.ERROR, error.code)


def _headers(span: Span) -> dict[str, str]:
    from opentelemetry.trace import set_span_in_context

    headers: dict[str, str] = {}
    _propagator().inject(headers, set_span_in_context(span))
    return headers


def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def _make_tracer() -> Tracer:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # the host has none
        resource = Resource({"service.name": "llm-api"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("llm_api")
