"""The blueprint: the routes that generate, one view for all dialects, and what the service says of itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState

from ..backends import Backend
from ..dialects import DIALECTS, Asked, Dialect
from ..dialects.base import CHARS_A_TOKEN, COMMENT, Conversational, estimate
from ..dialects.fields import UNNAMED
from ..errors import LLMAPIError, NoSuchModel, NotServed
from ..exchange.exchange import Exchange
from ..exchange.metrics import exposition
from ..runtime.cores import usable_cores
from . import pages
from .guard import caller, is_open, let_in, operators_only
from .http import RATES, answer_error, client, json_answer, name_request, read_body, stream_answer, who
from .openapi import describe
from .service import Service, service

ESTIMATED = {"X-LLM-Estimate": f"characters/{CHARS_A_TOKEN}"}

# What Ollama's API says of itself, where clients look for what it knows: the one that docs/providers.md has measured.
OLLAMA_VERSION = "0.24.0"
# What it says of a model that is not on this machine.
UNKNOWN_FILE = {"parent_model": "", "format": "", "parameter_size": "", "quantization_level": ""}
UNKNOWN_TIME = "1970-01-01T00:00:00Z"
CAPABILITIES = {"tools": "tools", "images": "vision"}

View = TypeVar("View", bound=Callable[..., Response])

blueprint = Blueprint("llm_api", __name__)
blueprint.register_blueprint(pages.blueprint)
blueprint.before_request(let_in)
blueprint.after_request(name_request)
blueprint.register_error_handler(Exception, answer_error)


def route(rule: str, *fronts: str, name: str | None = None, **options: Any) -> Callable[[View], View]:
    """Make a view the one of `rule` in apps that serve one of the `fronts`."""

    def keep(view: View) -> View:
        def hang(state: BlueprintSetupState) -> None:
            if not set(fronts).isdisjoint(state.options["fronts"]):
                state.add_url_rule(rule, name or view.__name__, view, **options)

        blueprint.record(hang)
        return view

    return keep


def view(kind: type[Dialect]) -> Callable[[], Response]:
    """Return the view of a dialect. Its docstring, the dialect's, is the route's in the description of the API."""

    @wraps(kind, updated=())
    def run() -> Response:
        here = service()
        dialect = here.dialects[kind.name]
        with here.exchange(dialect, client(here)) as exchange:
            return answer(here, dialect, exchange)

    return is_open(run)  # it asks for the key itself, so that the refusal has its line


def answer(here: Service, dialect: Dialect, exchange: Exchange) -> Response:
    """Read what the current request asks for, and answer it."""
    record = exchange.record
    record.caller = caller(here)
    request.environ[RATES] = here.rate_limits.count(record.caller, record.client_ip)
    exchange.use = partial(here.rate_limits.use, record.caller, record.client_ip)
    body = sent(here, dialect)
    if idle := dialect.idle(body):
        exchange.idle()
        return json_answer(idle)
    asked = dialect.read(body)
    head = exchange.open(asked.request, dialect.heartbeat if asked.request.stream else None)
    if asked.request.stream:
        pieces = dialect.pieces(head, exchange.chunks(), asked) if head else late(dialect, exchange, asked)
        response = stream_answer(pieces, dialect, exchange.deadline, who(head, asked) if head else {})
    else:
        whole = exchange.answer()
        response = json_answer(dialect.whole(whole, asked), headers=who(whole.head, asked))
    # Not left to a stream's own end: closing a generator that was never started runs none of it.
    exchange.hand_over()
    response.call_on_close(exchange.close)
    return response


def sent(here: Service, dialect: Dialect) -> dict[str, Any]:
    """Return the current request's body, with what the dialect reads of its headers."""
    body = read_body(here.settings.max_body_bytes, dialect.any_type)
    if dialect.headers:
        said = {field: request.environ.get(header) for header, field in dialect.headers.items()}
        body |= {field: value for field, value in said.items() if value}
    return body


def late(dialect: Dialect, exchange: Exchange, asked: Asked) -> Iterator[str]:
    """Yield a stream of events whose headers have left before its answer began: comments until it does.

    They are no events, so another backend may still answer; the last of them says what the headers could not.
    """
    try:
        yield Conversational.keep_alive
        while not (head := exchange.wait()):
            yield Conversational.keep_alive
    except LLMAPIError as error:
        yield dialect.broken(error)
        raise
    yield COMMENT.format(", ".join(f"{name}: {value}" for name, value in who(head, asked).items()))
    yield from dialect.pieces(head, exchange.chunks(), asked)


for each in DIALECTS:
    # OpenAI's clients are told an address to which they append, and OpenAI itself takes a slash at the end
    is_strict = not each.rule.startswith("/v1/")
    route(each.rule, each.front, name=each.name, methods=["POST"], strict_slashes=is_strict)(view(each))


@route("/v1/messages/count_tokens", "anthropic", methods=["POST"], strict_slashes=False)
def count_tokens() -> Response:
    """Count the tokens that a model reads of a body of /v1/messages, or estimate them, as a header says then."""
    here = service()
    dialect = here.dialects["messages"]
    asked = dialect.read(sent(here, dialect))
    counted = here.chain.count(asked.request, caller(here))
    tokens = estimate(asked.request) if counted is None else counted
    return json_answer({"input_tokens": tokens}, headers=ESTIMATED if counted is None else {})


@route("/v1/models", "openai", "anthropic", strict_slashes=False)
def models() -> Response:
    """List the models that a request may name, as `backend/model`; in OpenAI's words and Anthropic's at once."""
    listed = [_model(*each) for each in _models().items()]
    ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {"first_id": None, "last_id": None}
    return json_answer({"object": "list", "data": listed, "has_more": False, **ends})


@route("/v1/models/<path:model>", "openai", "anthropic")
def model(model: str) -> Response:
    """Show one model, also by a name of MODEL_ALIASES; `default` is the configured one."""
    if model in UNNAMED and _may_use_default():
        chain = service().chain
        return json_answer(_model(model, chain.serves()[chain.first.name], chain.first.name))
    name, models = _named(model) if service().chain.alias(model) else model, _models()
    if name not in models:
        raise NoSuchModel(f"there is no model {model!r} here; /v1/models lists those there are", param="model")
    return json_answer(_model(model, models[name], name.partition("/")[0]))


@route("/api/version", "ollama")
def ollama_version() -> Response:
    """Say which Ollama's API this is."""
    return json_answer({"version": OLLAMA_VERSION})


@route("/api/tags", "ollama")
def ollama_tags() -> Response:
    """List the models that a request may name, as Ollama does."""
    return json_answer({"models": [_tag(*each) for each in _models().items()]})


@route("/api/ps", "ollama")
def ollama_ps() -> Response:
    """List no model as loaded: who answers has each at hand."""
    return json_answer({"models": []})


@route("/api/show", "ollama", methods=["POST"])
def ollama_show() -> Response:
    """Show what a model can, as Ollama does."""
    body = read_body(service().settings.max_body_bytes, any_type=True)
    said = str(body.get("model") or body.get("name") or "").removesuffix(":latest")
    name, models = _named(said), _models()
    if name not in models:
        raise NoSuchModel(f"model {said!r} not found; /api/tags lists those there are", param="model")
    tag, context = _tag(name, models[name]), _maker(name).context
    family = tag["details"]["family"]
    info = {"general.architecture": family} | ({f"{family}.context_length": context} if context else {})
    shown = {"modelfile": "", "parameters": "", "template": "", "model_info": info}
    return json_answer(shown | {part: tag[part] for part in ("details", "capabilities", "modified_at")})


def ollama_refused(**_: str) -> Response:
    """Refuse what changes the models of an Ollama."""
    raise NotServed("models are not pulled, made or removed here: the operator chooses them (LLM_BACKEND)")


for verb, method in {"pull": "POST", "push": "POST", "create": "POST", "copy": "POST", "delete": "DELETE"}.items():
    route(f"/api/{verb}", "ollama", name=f"ollama_{verb}", methods=[method])(ollama_refused)
route("/api/blobs/<digest>", "ollama", name="ollama_blobs", methods=["HEAD", "POST"])(ollama_refused)


def _named(said: str) -> str:
    """Return a model as the lists name it, `backend/model`; `said` is as a request names it, by an alias too."""
    (backend, _), model = service().chain.named(None if said in UNNAMED else said)
    return f"{backend.name}/{backend.model if model is None else model}"


def _tag(name: str, serves: list[str]) -> dict[str, Any]:
    backend = _maker(name)
    details = UNKNOWN_FILE | {"family": backend.name, "families": [backend.name]}
    can = ["completion", *(word for need, word in CAPABILITIES.items() if need in serves)]
    if backend.embed_model and name == f"{backend.name}/{backend.embed_model}":
        can = [*can, "embedding"] if backend.is_own(backend.embed_model) else ["embedding"]
    digest = hashlib.sha256(name.encode()).hexdigest()  # clients tell models apart by it
    known = {"name": name, "model": name, "modified_at": UNKNOWN_TIME, "size": 0, "digest": digest}
    return known | {"details": details, "capabilities": can}


def _maker(name: str) -> Backend:
    return next(backend for backend in service().chain.choices if name.startswith(f"{backend.name}/"))


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
    """Show the numbers, in Prometheus' text format.

    They are those of all workers; where a host's gunicorn sets no PROMETHEUS_MULTIPROC_DIR, of the one that answers.
    """
    operators_only(service())
    numbers, media_type = exposition(service().numbers())
    return Response(numbers, content_type=media_type)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe the API (OpenAPI 3.1)."""
    most = service().settings.max_prompt_chars
    return json_answer(describe(frozenset(current_app.view_functions), request.blueprints[0], most))


@blueprint.get("/config")
def config() -> Response:
    """Show the settings, without secrets."""
    operators_only(service())
    public = service().settings.public()
    public["hf_threads"] = public["hf_threads"] or usable_cores()
    first = {"backend": public.pop("llm_backend")}
    first |= {name: public.pop(name) for name in ("ollama_model", "ollama_url", "log_file")}
    return json_answer(first | public | {"serves": service().chain.serves()})


def _models() -> dict[str, list[str]]:
    here = service()
    return {name: said for name, said in here.chain.models().items() if here.chain.hooks.permit(caller(here), name)}


def _may_use_default() -> bool:
    chain = service().chain
    return chain.hooks.permit(caller(service()), f"{chain.first.name}/{chain.first.model}")


def _model(name: str, serves: list[str], backend: str | None = None) -> dict[str, object]:
    # when a model was made is known to none of the backends
    openai = {"object": "model", "created": 0, "owned_by": backend or name.partition("/")[0]}
    anthropic = {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z", "lifecycle": "active"}
    return {"id": name, **openai, **anthropic, "serves": serves}
