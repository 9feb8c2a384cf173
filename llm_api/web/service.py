"""One mount of LLM API in one app: what its views share, and the same life of a request without HTTP."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple, TypedDict, Unpack

from flask import current_app, has_request_context, request

from .. import strict_json
from ..backends import Backend
from ..dialects import DIALECTS, Dialect
from ..dialects.fields import UNNAMED
from ..dialects.openai import message_of
from ..errors import BackendError, LLMAPIError, ValidationFailed
from ..exchange.chain import Chain, Hooks
from ..exchange.exchange import Exchange
from ..exchange.health import Health
from ..exchange.traces import Traces
from ..log.recent import Dashboard
from ..log.record import Record, TextPolicy
from ..log.writer import RequestLog
from ..runtime.deadline import Deadline
from ..settings import Settings
from ..types import Answer, Chunk
from .limits import RateLimits

NUMBERS_SECONDS = 1.0

Turns = Sequence[Mapping[str, Any] | Answer]


class Client(NamedTuple):
    """Where a request comes from. `sock` is the connection to its client, where there is one.

    `trace` has the headers traceparent and tracestate, where they are valid.
    """

    request_id: str
    address: str | None = None
    trace: Mapping[str, str] = {}
    sock: socket.socket | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace's id."""
        return self.trace["traceparent"].split("-")[1] if self.trace else None


class Fields(TypedDict, total=False):
    """What `POST /generate` takes that makes sense in Python; None: not said."""

    system: str | None
    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | list[str] | tuple[str, ...] | None
    seed: int | None
    response_format: dict[str, Any] | None
    images: list[str] | None
    tools: list[dict[str, Any]] | None
    tool_choice: str | dict[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    fallback: bool | None


class Service:
    """Shared by all threads. `hooks` are what the host decides; without its `caller` the key's name says who asks.

    `backends` replaces those that `settings` name. `prefix` is where the routes hang, "" for the top.
    """

    def __init__(self, settings: Settings, hooks: Hooks, backends: Iterable[Backend] | None, prefix: str) -> None:
        self.settings = settings
        self.hooks = hooks
        self.prefix = prefix
        self.log = RequestLog(settings)
        self.log.refuse_what_is_no_file()
        self.chain = Chain(settings, hooks, backends)
        self.health = Health(self.chain, self.log)
        self.dashboard = Dashboard(settings)
        self.rate_limits = RateLimits(settings)
        self.traces = Traces(settings)
        self.dialects = _dialects(settings.max_prompt_chars, settings.max_image_bytes)
        self._policy = TextPolicy(settings.log_prompts, settings.log_max_text)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Turns | None = None,
        caller: str | None = None,
        **fields: Unpack[Fields],
    ) -> Answer:
        """Return the answer to `prompt`; `fields` are those of `POST /generate`. Raises LLMAPIError.

        Or to `messages`, as OpenAI's Chat Completions has them; an Answer among them is the turn that it was. They have
        the system message and the pictures in them.
        Needs no app context; works in threads, commands and forked workers. `caller` is for the log and `may_use`.
        """
        with self._opened(*_conversation(prompt, messages), caller, fields) as exchange:
            return exchange.answer()

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        caller: str | None = None,
    ) -> Answer:
        """Return an answer whose `vectors` are those of `texts`, as `POST /v1/embeddings`. Raises LLMAPIError.

        Another backend is never asked: vectors of two models can't be compared.
        """
        body = {"model": model or UNNAMED[0], "input": list(texts)}
        with self._opened("embeddings", body, caller, {"dimensions": dimensions}) as exchange:
            return exchange.answer()

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Turns | None = None,
        caller: str | None = None,
        **fields: Unpack[Fields],
    ) -> Generator[str, None, Answer]:
        """Yield the answer in pieces, as `generate`; return it whole. Close the iterator to stop early."""
        with self._opened(*_conversation(prompt, messages), caller, {"stream": True} | fields) as exchange:
            said: list[Chunk] = []
            for chunk in exchange.chunks():
                said.append(chunk)
                if words := chunk.text or chunk.refusal:
                    yield words
            return Answer.of(said, exchange.answering())

    def exchange(self, dialect: Dialect, client: Client) -> Exchange:
        """Begin a request's life."""
        record = Record(self._policy, dialect.operation, client.request_id, client.address, client.trace_id)
        attempts = self.traces.begin(record, client.trace)
        deadline = Deadline(self.settings.request_timeout, client.sock)
        return Exchange(self.chain, self.log, record, deadline, attempts, dialect.status)

    def begin(self) -> None:
        """Begin what the first request would wait for. Does not wait; /health says what fails."""
        self.health.begin()
        self.dashboard.begin()
        with suppress(BackendError):
            self.chain.first.begin()

    def numbers(self) -> dict[str, float]:
        """Return what the backends tell /metrics; one that can't tell leaves its numbers out."""
        numbers: dict[str, float] = {}
        for backend, _ in self.chain.links:
            with suppress(LLMAPIError, OSError):
                numbers |= backend.numbers(Deadline(NUMBERS_SECONDS))
        return numbers

    @contextmanager
    def _opened(
        self, name: str, body: dict[str, Any], caller: str | None, fields: Mapping[str, Any]
    ) -> Iterator[Exchange]:
        dialect = self.dialects[name]
        with self.exchange(dialect, Client(secrets.token_hex(16))) as exchange:
            exchange.record.caller = caller
            said = body | {name: value for name, value in fields.items() if value is not None}
            if unknown := sorted(said.keys() - dialect.schema.fields.keys()):
                # Chat Completions' clients may send what they like; a slip in Python would be lost
                words = f"{unknown[0]}: Unknown field beside {dialect.conversation}."
                raise ValidationFailed(words, param=unknown[0], fields={name: [words] for name in unknown})
            strict_json.check(said)  # held against the rules for a body
            exchange.open(dialect.read(said).request)
            yield exchange


@cache
def _dialects(*bounds: int) -> dict[str, Dialect]:
    """Return the dialects by name. They keep nothing, so the apps of a process share them."""
    return {kind.name: kind(*bounds) for kind in DIALECTS}


def _conversation(prompt: str | None, messages: Turns | None) -> tuple[str, dict[str, Any]]:
    """Return the dialect in which either is said, and the body that says it."""
    if (prompt is None) is (messages is None):
        raise TypeError("give a prompt or messages")
    if messages is None:
        return "generate", {"prompt": prompt}
    turns = [message_of(turn) if isinstance(turn, Answer) else turn for turn in messages]
    return "chat_completions", {"model": UNNAMED[0], "messages": turns}


def service() -> Service:
    """Return the service under whose prefix the current request is; where it is under none, the app's first."""
    mounts: dict[str, Service] = current_app.extensions["llm_api"]
    first, *others = mounts.values()
    if not others or not has_request_context():
        return first
    found = [here for here in mounts.values() if request.path.startswith(f"{here.prefix}/")]
    return max(found, key=lambda here: len(here.prefix), default=first)
