"""gunicorn's greenlets. Imported only for WORKER_CLASS=gevent, when gevent has patched what blocks."""

from __future__ import annotations

from typing import Any

from gunicorn.workers.ggevent import GeventWorker


class GEvent(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's greenlets, which know how many connections there are."""

    nr_conns = 0

    def handle(self, *connection: Any) -> None:
        """Answer all requests of a connection."""
        self.nr_conns += 1
        try:
            super().handle(*connection)
        finally:
            self.nr_conns -= 1
