"""gunicorn's greenlets. Imported only for WORKER_CLASS=gevent, when gevent has patched what blocks."""

from __future__ import annotations

import select
import time
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

from .gunicorn import FIRST_SECONDS, stop

# How often one that waits for its client's next request looks whether the worker stops.
LOOK_SECONDS = 1.0


class GEvent(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's greenlets, which know how many connections there are.

    A kept connection has a greenlet, and so a place: those that ask nothing count as busy.
    """

    busy_conns = 0

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Let requests end; see `stop`."""
        stop(self, sig, frame)

    def handle(self, *connection: Any) -> None:
        """Answer all requests of a connection."""
        self.busy_conns += 1
        try:
            super().handle(*connection)
        finally:
            self.busy_conns -= 1

    def timeout_ctx(self) -> Any:
        """Bound the time that the head of a request has."""
        return gevent.Timeout(FIRST_SECONDS, False)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer a request, and wait for the next one. Raises StopIteration where the connection is to be closed.

        gunicorn's own waits `keepalive` seconds also for first requests, and in a worker that stops.
        """
        super().handle_request(listener_name, req, sock, addr)
        until = time.monotonic() + self.cfg.keepalive
        while not req.unreader.buf.getvalue() and not select.select([sock], [], [], LOOK_SECONDS)[0]:
            if not self.alive:
                until = min(until, time.monotonic() + STOP_KEEPALIVE_LINGER)
            if time.monotonic() > until:
                raise StopIteration
