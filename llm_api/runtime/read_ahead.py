"""Reading ahead in a thread, so that whoever waits for the next chunk can do something meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from ..types import Chunk


class Pump:
    """Iterates `chunks` in a thread of its own; yields them, and an empty chunk after every `seconds` of silence.

    It never ends by itself before `chunks` do: stop those, then `join`.
    """

    def __init__(self, chunks: Iterator[Chunk], seconds: float) -> None:
        self._chunks = chunks
        self._seconds = seconds
        self._ready: SimpleQueue[Chunk | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="llm-api-pump", daemon=True)

    def __iter__(self) -> Iterator[Chunk]:
        self._thread.start()
        while (item := self._next()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread.is_alive():
            self._thread.join()

    def _next(self) -> Chunk | Exception | None:
        try:
            return self._ready.get(timeout=self._seconds)
        except Empty:
            return Chunk()

    def _read(self) -> None:
        try:
            for chunk in self._chunks:
                self._ready.put(chunk)
        except Exception as error:
            self._ready.put(error)
        self._ready.put(None)
