"""The append protocol, broken on purpose; each function leaves one part out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from llm_api.log import writer as request_log
from llm_api.log.writer import RequestLog


def no_lock() -> None:
    """Writers don't wait for each other."""
    request_log._flock = lambda file, give_up: None


def no_repair() -> None:
    """A torn last line is left as it is."""
    RequestLog._repaired_size = lambda log, file: log._size


def answer_before_line() -> None:
    """The line is written in the background, as many loggers do it."""
    append = RequestLog.append

    def later(log: RequestLog, record: Mapping[str, Any]) -> None:
        threading.Timer(0.001, append, (log, record)).start()

    RequestLog.append = later  # type: ignore[method-assign]


NAMED = {"no_lock": no_lock, "no_repair": no_repair, "answer_before_line": answer_before_line}
