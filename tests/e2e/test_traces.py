"""Spans as a real collector gets them: OTLP over HTTP, from gunicorn's workers."""

from __future__ import annotations

from collections.abc import Callable

from faults.upstreams import UNTIL_CLOSED, Peer, Upstream
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .service import Service


def test_workers_send_their_spans(serve: Callable[..., Service], behind: Callable[..., Upstream]) -> None:
    """Each worker has an exporter of its own; what a stopping one still has is sent before it ends."""
    received: list[ExportTraceServiceRequest] = []

    def collect(peer: Peer) -> None:
        assert peer.head.startswith(b"POST /v1/traces ")
        received.append(ExportTraceServiceRequest.FromString(peer.body))
        peer.send(UNTIL_CLOSED)

    collector = behind(collect)
    service = serve(
        LLM_BACKEND="stub", TRACES="true", OTEL_EXPORTER_OTLP_ENDPOINT=collector.address, OTEL_SERVICE_NAME="ours"
    )
    ids = {service.generate("x").headers["X-Request-ID"] for _ in range(8)}
    service.stop()
    resources = [part for request in received for part in request.resource_spans]
    spans = [span for part in resources for scope in part.scope_spans for span in scope.spans]
    told = {each.key: each.value.string_value for span in spans for each in span.attributes}
    assert told["gen_ai.provider.name"] == "stub"
    whole = [span for span in spans if span.name == "generate"]
    assert {each.value.string_value for span in whole for each in span.attributes if "request_id" in each.key} == ids
    assert len(spans) == 2 * len(ids)
    names = [each.value.string_value for part in resources for each in part.resource.attributes if "name" in each.key]
    assert "ours" in names
