"""One request's life: the chain of backends, the one retry loop, the breakers, the deadline, and the line in the log.

A view starts an Exchange, opens it with what the client asked for, and iterates it. Whatever happens on the way, the
exchange ends with one line in the log: written before its last chunk is handed out, or when it fails or is closed.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Generator as PythonGenerator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..backends import Backend, make_backend
from ..errors import (
    BackendError,
    CircuitOpen,
    ClientGone,
    InternalError,
    InvalidAnswer,
    LLMAPIError,
    LogUnavailable,
    ModelForbidden,
    NoCapacity,
    ParameterDropped,
    RequestError,
    TimedOut,
    stack_of,
)
from ..log.record import Record
from ..log.writer import RequestLog
from ..runtime.deadline import Deadline
from ..runtime.per_process import PerProcess
from ..runtime.read_ahead import Pump
from ..settings import Settings
from ..types import Chunk, GenerationRequest
from . import metrics
from .breaker import Breaker

# providers.md, section 1.5: what the official SDKs do
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
LONGEST_RETRY_AFTER = 120.0
# A backend that hangs must leave time for those behind it: each of them keeps this share of the whole.
KEPT_FOR_FALLBACK = 0.1

logger = logging.getLogger(__name__)

Link = tuple[Backend, Breaker]


@dataclass(frozen=True)
class Hooks:
    """What a host may say of a request: whether its caller may use `backend/model`, and how its line is to be."""

    may_use: Callable[[str | None, str], bool] | None = None
    redact: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def permit(self, caller: str | None, model: str) -> bool:
        """Return whether `caller` may use `model`."""
        return self.may_use is None or self.may_use(caller, model)


class Generator:
    """The backends of one app, each with its breaker, and the log. Shared by all threads."""

    def __init__(self, settings: Settings, log: RequestLog, hooks: Hooks) -> None:
        self.settings = settings
        self.log = log
        self.hooks = hooks
        names = dict.fromkeys((settings.llm_backend, *settings.llm_fallback))
        # a forked child has none of its parent's requests
        self.slots = PerProcess(lambda: threading.BoundedSemaphore(settings.concurrency))
        self.chain: list[Link] = [(make_backend(name, settings), Breaker()) for name in names]

    @property
    def choices(self) -> list[Backend]:
        """The backends that a request's `model` may choose."""
        return [backend for backend, _ in (self.chain if self.settings.allow_model_choice else self.chain[:1])]

    def route(self, request: GenerationRequest) -> tuple[list[Link], GenerationRequest]:
        """Return the backends to ask, in order, and the request with its model as the first of them calls it."""
        first, model = self._named(request.model)
        links = [first, *(link for link in self.chain[1:] if link is not first)]
        if model != request.model:
            request = dataclasses.replace(request, model=model)
        return links if request.fallback else links[:1], request

    def _named(self, name: str | None) -> tuple[Link, str | None]:
        """Read `backend/model`. Any other name, also one with a slash of its own, is a model of the configured one."""
        if name and name != self.chain[0][0].model:
            prefix, _, model = name.partition("/")
            for link, backend in zip(self.chain, self.choices, strict=False):
                if model and backend.name == prefix:
                    return link, model
        return self.chain[0], name


class Exchange:
    """One request's life. Open it once, iterate it once, close it always."""

    def __init__(self, generator: Generator, record: Record, deadline: Deadline) -> None:
        self.record = record
        self._generator = generator
        self._deadline = deadline
        self._source: PythonGenerator[Chunk] | None = None
        self._chunks: Iterator[Chunk] = iter(())
        self._pump: Pump | None = None
        self._slots = generator.slots()
        self._has_slot = self._written = self._closed = False
        deadline.keep()
        metrics.begun()

    def open(self, request: GenerationRequest) -> None:
        """Find a backend that answers. On return the first chunk is there; without `stream`, the whole answer.

        Raises the configured backend's error when no backend can serve, RequestRefused when the request itself is
        wrong, ClientGone or TimedOut.
        """
        self.record.request = request
        self._take_slot()
        links, request = self._permitted(*self._generator.route(request))
        self.record.requested_backend = links[0][0].name
        failure: BackendError | None = None
        for behind, (backend, breaker) in zip(reversed(range(len(links))), links, strict=True):
            asked = _for_fallback(request) if failure else request
            try:
                with self._deadline.keeping(self._keep(behind)):
                    self._ask(backend, breaker, asked)
            except BackendError as error:
                failure = failure or error
                # a model or schema of the client's own choice says nothing about the backend
                if asked.model in (None, backend.model) and not asked.response_format:
                    breaker.remember(error.message)
            except RequestError as error:
                raise failure or error from None
            else:
                breaker.remember(None)
                self.record.fallback_reason = failure.code if failure else None
                return
        assert failure, "a chain is never empty"
        raise failure

    def _permitted(self, links: list[Link], request: GenerationRequest) -> tuple[list[Link], GenerationRequest]:
        hooks, caller = self._generator.hooks, self.record.caller
        first, *others = links
        if not hooks.permit(caller, f"{first[0].name}/{request.model or first[0].model}"):
            raise ModelForbidden("this caller may not use this model", param="model")
        return [first, *(link for link in others if hooks.permit(caller, f"{link[0].name}/{link[0].model}"))], request

    def _take_slot(self) -> None:
        self._has_slot = self._slots.acquire(blocking=False)
        if not self._has_slot:
            raise NoCapacity("as many requests run as may at once (MAX_CONCURRENCY)")

    def text(self) -> str:
        """Return the whole answer."""
        return "".join(chunk.text for chunk in self)

    def beating(self, seconds: float) -> Iterator[Chunk]:
        """As the exchange itself, with an empty chunk after every `seconds` of silence."""
        self._pump = Pump(self._chunks, seconds)
        self._chunks = iter(self._pump)
        return iter(self)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks; the last one, with the finish reason, only after the line is in the log."""
        try:
            for chunk in self._chunks:
                self.record.add(chunk)
                self.record.model = self._redacted(chunk.model) or self.record.model
                if chunk.finish_reason:
                    self._end("ok", 200)
                yield chunk
        except Exception as error:
            raise self.fail(error, 200 if self.record.request and self.record.request.stream else None) from error

    def details(self) -> dict[str, Any]:
        """Return the `details` of an answer."""
        record = self.record
        return {
            "request_id": record.request_id,
            "backend": record.backend,
            "model": record.model,
            "finish_reason": record.finish_reason,
            "usage": {"input_tokens": record.usage.input_tokens, "output_tokens": record.usage.output_tokens},
            "duration_ms": record.duration_ms(),
            "fallback": record.fallback_reason is not None,
            "fallback_reason": record.fallback_reason,
        }

    def fail(self, error: Exception, http_status: int | None = None) -> LLMAPIError:
        """End with an error. Return the one to answer with: another if even the line could not be written."""
        if not isinstance(error, LLMAPIError):
            logger.error("request %s met an unexpected %s", self.record.request_id, stack_of(error))
            error = InternalError()
        error.redact(self._generator.settings.redact)
        try:
            status = "aborted" if isinstance(error, ClientGone) else "error"
            self._end(status, http_status or error.status, error)
        except LLMAPIError as unlogged:
            return unlogged
        return error

    def close(self) -> None:
        """End whatever has not ended: the client left before the last chunk. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._deadline.release()
        try:
            self._stop_source()
            if not self._written:
                self.fail(ClientGone(), 200)
        finally:
            if self._has_slot:
                self._slots.release()
            metrics.over()

    def _stop_source(self) -> None:
        if self._pump:
            self._deadline.hung_up()  # what the pump's thread waits for ends
            self._pump.join()
        if self._source:
            self._source.close()

    def _end(self, status: str, http_status: int, error: LLMAPIError | None = None) -> None:
        if self._written:
            return
        self._written, logged = True, False
        try:
            logged = self._generator.log.append(self._line(status, http_status, error))
        except LogUnavailable as unlogged:
            status, http_status = "error", unlogged.status
            raise
        except Exception:  # a host's hook broke, or gave what is no JSON: no word of the request is written, but a line
            bare = Record(self.record.settings, self.record.operation, self.record.request_id)
            status, http_status = "error", InternalError.status
            logged = self._generator.log.append(bare.line(status, http_status, InternalError()))
            raise
        finally:
            metrics.ended(self.record, status, http_status, logged=logged)

    def _line(self, status: str, http_status: int, error: LLMAPIError | None) -> dict[str, Any]:
        line = self.record.line(status, http_status, error)
        redact = self._generator.hooks.redact
        return (redact(line) or line) if redact else line  # or it was changed in place

    def _keep(self, backends: int) -> float:
        return backends * KEPT_FOR_FALLBACK * self._generator.settings.request_timeout

    def _ask(self, backend: Backend, breaker: Breaker, request: GenerationRequest) -> None:
        """The one retry loop. On return the answer has begun."""
        retries = 0
        while True:
            try:
                with self._noted(backend.name):
                    return self._begin(backend, breaker, request)
            except ParameterDropped:
                continue  # it can be dropped only once
            except BackendError as error:
                self._pause_after(error, retries, breaker)
                retries += 1

    @contextmanager
    def _noted(self, backend: str) -> Iterator[None]:
        started = time.monotonic()
        outcome = "ok"
        try:
            yield
        except Exception as error:
            outcome = error.code if isinstance(error, LLMAPIError) else InternalError.code
            raise
        finally:
            self.record.attempted(backend, outcome, time.monotonic() - started)

    def _begin(self, backend: Backend, breaker: Breaker, request: GenerationRequest) -> None:
        if seconds := breaker.admit():
            raise CircuitOpen(f"{backend.name} keeps failing and is left alone for now", retry_after=seconds)
        self._source = _to_its_end(backend, request, breaker, self._deadline)
        # JSON is checked before any of it leaves, so a stream of it comes at once
        ready = [next(self._source)] if request.stream and not request.response_format else list(self._source)
        if request.response_format:
            from .structured import check_answer

            check_answer("".join(chunk.text for chunk in ready), request.response_format, self._deadline)
        self._chunks = chain(ready, self._source)
        self.record.backend = backend.name
        self.record.model = self._redacted(next((c.model for c in ready if c.model), request.model or backend.model))

    def _redacted(self, model: str | None) -> str | None:
        """An upstream names its model as it likes, which may be by a key."""
        return model and self._generator.settings.redact(model)

    def _pause_after(self, error: BackendError, retries: int, breaker: Breaker) -> None:
        """Wait as long as the SDKs do; raise `error` if it is to be the last."""
        pause = _pause(error.retry_after, retries)
        last = retries >= self._generator.settings.max_retries or pause >= self._deadline.remaining()
        if last or not error.retryable or breaker.open_for():
            raise error
        self._deadline.wait(pause)


def _to_its_end(
    backend: Backend, request: GenerationRequest, breaker: Breaker, deadline: Deadline
) -> PythonGenerator[Chunk]:
    """Pass an answer on, and tell the breaker how it went. Raises InvalidAnswer where it stops before its end."""
    begun = False
    tell = breaker.abandoned
    try:
        for chunk in backend.stream(request, deadline):
            begun = True
            if chunk.finish_reason:
                tell = breaker.succeeded
                yield chunk
                return
            yield chunk
        deadline.check()
        raise InvalidAnswer("the answer ended before it was complete")
    except BackendError as error:
        # a stream that is late after its beginning may have had a slow reader
        slow_reader = begun and isinstance(error, TimedOut)
        tell = breaker.failed if error.trips and not slow_reader else breaker.succeeded
        raise
    except RequestError:
        tell = breaker.succeeded
        raise
    finally:
        tell()
        metrics.breaker(backend.name, breaker.is_open)


def _pause(retry_after: float | None, retries: int) -> float:
    """Return the seconds before the next try; infinity where the server asks for more than the SDKs grant."""
    if retry_after is None or retry_after <= 0:
        return min(FIRST_PAUSE * 2.0**retries, LONGEST_PAUSE) * random.uniform(0.75, 1)
    return retry_after if retry_after <= LONGEST_RETRY_AFTER else math.inf


def _for_fallback(request: GenerationRequest) -> GenerationRequest:
    """A model's name means something to the configured backend only."""
    return dataclasses.replace(request, model=None)
