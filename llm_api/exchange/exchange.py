"""One request's life: a place, a deadline, a backend that answers, and one line in the log, whatever its end."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from types import TracebackType
from typing import Any

from ..errors import ClientGone, InternalError, LLMAPIError, LogUnavailable, NoCapacity, stack_of
from ..log.record import End, Record
from ..log.writer import RequestLog
from ..runtime.deadline import Deadline
from ..types import Answer, Chunk, Head, Request, Usage
from . import metrics
from .attempts import Attempts, Begun
from .chain import Chain, Route

logger = logging.getLogger(__name__)


class Exchange:
    """A context manager. Open it once, then take the `answer`, or iterate its `chunks` once.

    Its line is in the log before the last chunk is handed out, or when it fails or is closed. An error leaves the
    block as the one to answer with. After `hand_over` the block's end does not close it. `status_of` is the status with
    which an error is answered; `use` is told how many tokens were used.
    """

    def __init__(
        self,
        chain: Chain,
        log: RequestLog,
        record: Record,
        deadline: Deadline,
        attempts: Attempts,
        status_of: Callable[[LLMAPIError], int] = lambda error: error.status,
    ) -> None:
        self.record = record
        self.head: Head | None = None
        self.use: Callable[[int], None] = lambda tokens: None
        self._chain = chain
        self._log = log
        self.deadline = deadline
        self._status_of = status_of
        self._started = time.monotonic()
        self._requested = chain.first.name
        self._begun: Begun | None = None
        self._coming: futures.Future[Begun] | None = None
        self._attempts = attempts
        self._first_chunk_ms: float | None = None
        self._last = Chunk()
        self._places = chain.places()
        self._heartbeat = 0.0
        self._has_place = self._written = self._closed = self._handed_over = False
        deadline.keep()
        metrics.begun()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self._handed_over and error is None:
            return
        try:
            if isinstance(error, Exception):
                raise self.fail(error) from error
            if isinstance(error, SystemExit):  # gunicorn aborts its worker, which is not the client's doing
                self.fail(InternalError())
        finally:
            self.close()

    def hand_over(self) -> None:
        """Leave the closing to the sender of the answer."""
        self._handed_over = True

    def open(self, request: Request, heartbeat: float | None = None) -> Head | None:
        """Find a backend that answers. On return the first chunk is there; without `stream`, the whole answer.

        With `heartbeat`, None is returned where nothing is there after so many seconds: `wait` for it then.
        Raises what `Chain.begin` raises, ModelForbidden and NoCapacity.
        """
        self.record.request = request
        self._has_place = self._places.acquire(blocking=False)
        if not self._has_place:
            raise NoCapacity("as many requests run as may at once (MAX_CONCURRENCY)")
        route = self._chain.route(request)
        self._requested = route.links[0].backend.name
        route = self._chain.permitted(route, self.record.caller)
        if heartbeat is None:
            self._begin(route)
            return self.head
        self._heartbeat = heartbeat
        self._coming = _in_a_thread(partial(self._begin, route))
        return self._come()

    def wait(self) -> Head | None:
        """Wait for the answer to begin, and return None when the next heartbeat is due.

        Raises the error that the request has ended with.
        """
        try:
            return self._come()
        except Exception as error:
            raise self.fail(error, 200) from error

    def _come(self) -> Head | None:
        assert self._coming, "it was opened with a heartbeat"
        if not futures.wait([self._coming], self._heartbeat).done:
            return None
        self._coming.result()
        self.deadline.silence = self._heartbeat
        return self.head

    def answering(self) -> Head:
        """Return the head of the answer, once it is open."""
        assert self.head, "it was opened"
        return self.head

    def answer(self) -> Answer:
        """Return the whole answer."""
        chunks = list(self.chunks())
        return Answer.of(chunks, self.answering())

    def idle(self) -> None:
        """End well without an answer, where no model was asked anything."""
        self._end("ok", 200)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks; the last one, with the finish reason, only after the line is in the log.

        Opened with a heartbeat, an empty chunk comes after every so many seconds of silence.
        """
        assert self._begun, "it was opened"
        try:
            for chunk in self._begun.chunks:
                self._note(chunk)
                if chunk.finish_reason:
                    self._end("ok", 200)
                yield chunk
        except Exception as error:
            raise self.fail(error, 200 if self.record.request and self.record.request.stream else None) from error
        except SystemExit:
            self.fail(InternalError(), 200)
            raise

    def fail(self, error: Exception, http_status: int | None = None) -> LLMAPIError:
        """End with an error. Return the one to answer with: another if even the line could not be written."""
        if not isinstance(error, LLMAPIError):
            logger.error("request %s met an unexpected %s", self.record.request_id, stack_of(error))
            error = InternalError()
        error.redact(self._chain.settings.redact)
        try:
            status = "aborted" if isinstance(error, ClientGone) else "error"
            self._end(status, http_status or self._status_of(error), error)
        except LLMAPIError as unlogged:
            return unlogged
        return error

    def close(self) -> None:
        """End whatever has not ended: the client left before the last chunk. May be called again."""
        if self._closed:
            return
        self._closed = True
        try:
            self.deadline.hung_up()  # what is waited for ends
            if self._coming:
                futures.wait([self._coming])
            if self._begun:
                self._begun.close()
            if not self._written:
                self.fail(ClientGone(), 200)
        finally:
            self.deadline.release()
            if self._has_place:
                self._places.release()
            metrics.over()

    def _begin(self, route: Route) -> Begun:
        begun = self._begun = self._chain.begin(route, self.deadline, self._attempts)
        answering = begun.backend, self._chain.settings.redact(begun.model), begun.fallback_reason, begun.speaks
        self.head = Head(self.record.request_id, self.record.timestamp, self._started, *answering)
        return begun

    def _note(self, chunk: Chunk) -> None:
        if self._first_chunk_ms is None:
            self._first_chunk_ms = self._milliseconds()
        self.record.add(chunk)
        self._last = chunk
        if chunk.model and chunk.model != self.answering().model:  # an upstream names it as it likes, even by a key
            self.head = dataclasses.replace(self.answering(), model=self._chain.settings.redact(chunk.model))

    def _milliseconds(self) -> float:
        return round((time.monotonic() - self._started) * 1000, 3)

    def _end(self, status: str, http_status: int, error: LLMAPIError | None = None) -> None:
        if self._written:
            return
        self._written, logged, line = True, False, None
        end = self._summary(status, http_status, error)
        try:
            logged = self._log.append(line := self._line(end))
        except LogUnavailable as unlogged:
            end = end._replace(status="error", http_status=unlogged.status)
            raise
        except Exception:  # a host's hook broke, or gave what is not JSON: the line has no word of the request
            end = end._replace(status="error", http_status=InternalError.status)
            logged = self._log.append(self._bare_line(end))
            raise
        finally:
            metrics.ended(self.record.operation, end, logged=logged)
            self._attempts.over(end, line)
            self.use((end.usage.input_tokens or 0) + (end.usage.output_tokens or 0))

    def _summary(self, status: str, http_status: int, error: LLMAPIError | None) -> End:
        finish, usage = self._last.finish_reason, self._last.usage if self._last.finish_reason else Usage()
        times, more = (self._milliseconds(), self._first_chunk_ms), (tuple(self._attempts.made), self.record.tool_calls)
        return End(status, http_status, error, self.head, self._requested, finish, usage, *times, *more)

    def _line(self, end: End) -> dict[str, Any]:
        line = self.record.line(end)
        redact = self._chain.hooks.redact
        return (redact(line) or line) if redact else line  # or it was changed in place

    def _bare_line(self, end: End) -> dict[str, Any]:
        record = Record(self.record.policy, self.record.operation, self.record.request_id)
        bare = end._replace(error=InternalError(), head=None, finish_reason=None, usage=Usage(), attempts=())
        return record.line(bare)


def _in_a_thread(begin: Callable[[], Begun]) -> futures.Future[Begun]:
    """Begin an answer in a thread of its own, so that its view can do something while it waits."""
    coming: futures.Future[Begun] = futures.Future()

    def run() -> None:
        try:
            coming.set_result(begin())
        except Exception as error:
            coming.set_exception(error)

    threading.Thread(target=run, name="llm-api-begin", daemon=True).start()
    return coming
