"""The blueprint /v1: OpenAI's Chat Completions, Completions and Models, over every backend (providers.md, 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from .. import strict_json
from ..dialects.openai import OpenAIWish
from ..errors import LLMAPIError, NoSuchModel, RequestRefused
from ..exchange.exchange import Exchange
from ..log.record import Record
from ..types import Usage
from .http import authenticate, error_answer, exchange, json_answer, read_body, service, stream_answer, who
from .service import Service

# A proxy in front gives up on a connection that is silent for a minute (nginx, proxy_read_timeout).
HEARTBEAT_SECONDS = 10.0

blueprint = Blueprint("openai", __name__, url_prefix="/v1")


@dataclass(frozen=True)
class Dialect:
    """How a route frames an answer: the names of its objects, and what a choice holds."""

    id_prefix: str
    whole_object: str
    piece_object: str
    whole: Callable[[str], dict[str, Any]]
    piece: Callable[[str], dict[str, Any]]
    first: tuple[dict[str, Any], ...]
    last: dict[str, Any]


CHAT = Dialect(
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    piece=lambda text: {"delta": {"content": text}},
    first=({"delta": {"role": "assistant", "content": ""}},),
    last={"delta": {}},
)
TEXT = Dialect(
    "cmpl-",
    "text_completion",
    "text_completion",
    whole=lambda text: {"text": text},
    piece=lambda text: {"text": text},
    first=(),
    last={"text": ""},
)


@blueprint.errorhandler(RequestRefused)
def answer_refused(error: RequestRefused) -> Response:
    """A text that is too long is the prompt's fault; a conversation's are called otherwise."""
    if error.param == "prompt" and request.url_rule and request.url_rule.endpoint.endswith(".chat_completions"):
        error.param = "messages"
    return error_answer(error)


@blueprint.post("/chat/completions")
@exchange("chat")
def chat_completions(here: Service, exchange: Exchange) -> Response:
    """Answer a conversation (OpenAI's Chat Completions).

    `model` is a name of the configured backend, or `backend/model` as /v1/models lists it. With `stream`, server-sent
    events.
    """
    return _answer(exchange, here.chat_schema.read(read_body(here.settings.max_body_bytes)), CHAT)


@blueprint.post("/completions")
@exchange("completion")
def completions(here: Service, exchange: Exchange) -> Response:
    """Answer a prompt (OpenAI's Completions). The prompt is a user's message to the model, not a text to go on with."""
    return _answer(exchange, here.completion_schema.read(read_body(here.settings.max_body_bytes)), TEXT)


@blueprint.get("/models")
def models() -> Response:
    """List the models that a request may name, as `backend/model`."""
    return json_answer({"object": "list", "data": [_model(name) for name in _names()]})


@blueprint.get("/models/<path:model>")
def model(model: str) -> Response:
    """Show one model."""
    if model not in _names():
        raise NoSuchModel(f"there is no model {model!r} here; /v1/models lists those there are", param="model")
    return json_answer(_model(model))


def _names() -> list[str]:
    here = service()
    caller = authenticate(here)
    return [name for name in here.models.ids() if here.generator.hooks.permit(caller, name)]


def _model(name: str) -> dict[str, object]:
    # when a model was made is known to none of the backends
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}


def _answer(exchange: Exchange, wish: OpenAIWish, dialect: Dialect) -> Response:
    exchange.open(wish.request)
    if wish.request.stream:
        return stream_answer(_events(exchange, wish.include_usage, dialect), "text/event-stream", exchange)
    choice = dialect.whole(exchange.text())
    record = exchange.record
    body = _object(record, dialect.id_prefix, dialect.whole_object, [_choice(choice, record.finish_reason)])
    return json_answer(body | {"usage": _usage(record.usage)}, headers=who(exchange))


def _events(exchange: Exchange, include_usage: bool, dialect: Dialect) -> Iterator[str]:
    empty = _object(exchange.record, dialect.id_prefix, dialect.piece_object, [])
    no_usage = {"usage": None} if include_usage else {}

    def event(choice: dict[str, Any], finish_reason: str | None = None) -> str:
        return _event(empty | {"choices": [_choice(choice, finish_reason)]} | no_usage)

    try:
        yield from map(event, dialect.first)
        for chunk in exchange.beating(HEARTBEAT_SECONDS):
            if chunk.text:
                yield event(dialect.piece(chunk.text))
            if chunk.finish_reason:
                yield event(dialect.last, chunk.finish_reason)
                if include_usage:
                    yield _event(empty | {"usage": _usage(chunk.usage)})
                yield "data: [DONE]\n\n"
            elif not chunk.text:
                yield ": keep-alive\n\n"
    except LLMAPIError as error:
        yield _event({"error": error.public()})


def _object(record: Record, prefix: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": prefix + record.request_id,
        "object": kind,
        "created": int(record.timestamp),
        "model": f"{record.backend}/{record.model}",
        "choices": choices,
    }


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0} | content | {"logprobs": None, "finish_reason": finish_reason}


def _usage(usage: Usage) -> dict[str, int] | None:
    """The three numbers, or null where the backend did not say both."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    total = usage.input_tokens + usage.output_tokens
    return {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens, "total_tokens": total}


def _event(value: object) -> str:
    return f"data: {strict_json.dumps(value)}\n\n"
