"""Reading ahead in a thread, so that the reader can do something while it waits for the next item."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Iterates `items` in a thread of its own, from now on; yields them, and `idle` after every `seconds` of silence.

    It never ends by itself before `items` do: stop those, then `join`.
    """

    def __init__(self, items: Iterator[T], seconds: float, idle: T) -> None:
        self._items = items
        self._seconds = seconds
        self._idle = idle
        self._ready: SimpleQueue[T | Exception | None] = SimpleQueue()
        self._held: list[T | Exception | None] = []
        self._thread = threading.Thread(target=self._read, name="llm-api-read-ahead", daemon=True)
        self._thread.start()

    def has_begun(self) -> bool:
        """Wait `seconds` for the next item, and return whether it is there. Raises the error that came instead."""
        if not self._held:
            with suppress(Empty):
                self._held.append(self._ready.get(timeout=self._seconds))
        for item in self._held:
            if isinstance(item, Exception):
                raise item
        return bool(self._held)

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._held.pop() if self.has_begun() else self._idle
            if item is None:
                return
            assert not isinstance(item, Exception), "it was raised"
            yield item

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _read(self) -> None:
        try:
            for item in self._items:
                self._ready.put(item)
        except Exception as error:
            self._ready.put(error)
        self._ready.put(None)
