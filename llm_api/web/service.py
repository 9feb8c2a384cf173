"""One mount of LLM API in one app: what its views share, and the same life of a request without HTTP."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Generator as PythonGenerator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .. import strict_json
from ..dialects.fields import GenerateSchema
from ..dialects.openai import ChatSchema, CompletionSchema
from ..errors import BackendError, LLMAPIError
from ..exchange.exchange import Exchange, Generator, Hooks
from ..exchange.health import Health
from ..exchange.models import Models
from ..log.recent import Dashboard
from ..log.record import Record
from ..log.writer import RequestLog
from ..runtime.deadline import Deadline
from ..settings import Settings
from .limits import RateLimits

NUMBERS_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """A whole answer and who gave it; as a string, its text. `usage` has `input_tokens` and `output_tokens`."""

    text: str
    request_id: str
    backend: str
    model: str
    finish_reason: str
    usage: Mapping[str, int | None]
    duration_ms: float
    fallback: bool
    fallback_reason: str | None

    def __str__(self) -> str:
        return self.text


class Service:
    """Shared by all threads. `caller()` returns who asks in the current request; without it the key's name says so."""

    def __init__(self, settings: Settings, hooks: Hooks, caller: Callable[[], str | None] | None = None) -> None:
        self.settings = settings
        self.caller = caller
        self.generator = Generator(settings, RequestLog(settings), hooks)
        self.health = Health(self.generator)
        self.models = Models(self.generator)
        self.dashboard = Dashboard(settings)
        self.rate_limits = RateLimits(settings)
        self.generate_schema = GenerateSchema(settings.max_prompt_chars)
        self.chat_schema = ChatSchema(settings.max_prompt_chars)
        self.completion_schema = CompletionSchema(settings.max_prompt_chars)

    def generate(self, prompt: str, *, caller: str | None = None, **fields: Any) -> Answer:
        """Return the answer to `prompt`; `fields` are those of `POST /generate`. Raises LLMAPIError.

        Needs no app context; works in threads, commands and forked workers. `caller` is for the log and `may_use`.
        """
        with self._exchange({"prompt": prompt} | fields, caller) as exchange:
            return Answer(exchange.text(), **exchange.details())

    def stream(self, prompt: str, *, caller: str | None = None, **fields: Any) -> PythonGenerator[str, None, Answer]:
        """Yield the answer in pieces, as `generate`; return it whole. Close the iterator to stop early."""
        with self._exchange({"prompt": prompt, "stream": True} | fields, caller) as exchange:
            said = []
            for chunk in exchange:
                said.append(chunk.text)
                if chunk.text:
                    yield chunk.text
            return Answer("".join(said), **exchange.details())

    def begin(self) -> None:
        """Begin what the first request would wait for. Does not wait for it; what fails is /health's to say."""
        with suppress(BackendError):
            self.generator.chain[0][0].begin()

    def numbers(self) -> dict[str, float]:
        """Return what the backends tell /metrics; one that can't tell leaves its numbers out."""
        numbers: dict[str, float] = {}
        for backend, _ in self.generator.chain:
            with suppress(LLMAPIError, OSError):
                numbers |= backend.numbers(Deadline(NUMBERS_SECONDS))
        return numbers

    def start(self, record: Record, client: socket.socket | None = None) -> Exchange:
        """Begin a request's life; the view or caller opens and closes it. `client` is the socket to who asks."""
        return Exchange(self.generator, record, Deadline(self.settings.request_timeout, client))

    @contextmanager
    def _exchange(self, body: Mapping[str, Any], caller: str | None) -> Iterator[Exchange]:
        exchange = self.start(Record(self.settings, "generate", secrets.token_hex(16), caller=caller))
        try:
            # as a body would come: held against the same rules; None is what the caller has not said
            said = strict_json.dumps({name: value for name, value in body.items() if value is not None})
            exchange.open(self.generate_schema.read(strict_json.loads(said.encode())).request)
            yield exchange
        except Exception as error:
            raise exchange.fail(error) from error
        finally:
            exchange.close()
