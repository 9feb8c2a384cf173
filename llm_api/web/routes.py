"""The blueprint: /generate, /health, /config."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Blueprint, Response, current_app, request

from .. import strict_json
from ..errors import LLMAPIError
from ..exchange.exchange import Exchange
from ..exchange.metrics import exposition
from ..runtime.cores import usable_cores
from . import openai_routes, pages
from .http import (
    answer_error,
    exchange,
    is_open,
    json_answer,
    let_in,
    name_request,
    read_body,
    service,
    stream_answer,
    who,
)
from .service import Service

blueprint = Blueprint("llm_api", __name__)
blueprint.register_blueprint(openai_routes.blueprint)
blueprint.register_blueprint(pages.blueprint)
blueprint.before_request(let_in)
blueprint.after_request(name_request)
blueprint.register_error_handler(Exception, answer_error)


@blueprint.post("/generate")
@exchange("generate")
def generate(here: Service, exchange: Exchange) -> Response:
    """Turn a prompt into text.

    The configured backend answers, or the next one of LLM_FALLBACK; the headers say who. With `stream`, NDJSON.
    """
    wish = here.generate_schema.read(read_body(here.settings.max_body_bytes))
    exchange.open(wish.request)
    if wish.request.stream:
        return stream_answer(_lines(exchange, wish.details), "application/x-ndjson", exchange)
    answer: dict[str, object] = {"response": exchange.text()}
    if wish.details:
        answer["details"] = exchange.details()
    return json_answer(answer, headers=who(exchange))


@blueprint.get("/health")
@is_open
def health() -> Response:
    """Say whether the backends can serve. Asks them at most every two seconds, and generates nothing."""
    report = service().health.report()
    body = {"status": report.status, "backend": service().settings.llm_backend, "timestamp": time.time()}
    if report.reason:
        body["reason"] = report.reason
    return json_answer(body, 503 if report.status == "unhealthy" else 200)


@blueprint.get("/health/live")
@is_open
def live() -> Response:
    """Say that the process answers; looks at nothing else."""
    return json_answer({"status": "healthy", "backend": service().settings.llm_backend, "timestamp": time.time()})


@blueprint.get("/metrics")
def metrics() -> Response:
    """Show the numbers of all workers, in Prometheus' text format."""
    numbers, media_type = exposition(service().numbers())
    return Response(numbers, content_type=media_type)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe the API (OpenAPI 3.1)."""
    from .openapi import describe

    return json_answer(describe(current_app, request.blueprints[0], service()))


@blueprint.get("/config")
def config() -> Response:
    """Show the settings, without secrets."""
    public = service().settings.public()
    public["hf_threads"] = public["hf_threads"] or usable_cores()
    first = {"backend": public.pop("llm_backend")}
    first |= {name: public.pop(name) for name in ("ollama_model", "ollama_url", "log_file")}
    return json_answer(first | public)


def _lines(exchange: Exchange, details: bool) -> Iterator[str]:
    try:
        for chunk in exchange:
            if chunk.text:
                yield _line({"response": chunk.text})
            if chunk.finish_reason:
                last = {"response": "", "done": True, "finish_reason": chunk.finish_reason}
                yield _line(last | ({"details": exchange.details()} if details else {}))
    except LLMAPIError as error:
        yield _line({"error": error.public(), "done": True})


def _line(value: object) -> str:
    return strict_json.dumps(value) + "\n"
