"""What the doctor says of one thing."""

from __future__ import annotations

from typing import NamedTuple

# How long it waits for a backend, or for the server that runs.
CHECK_SECONDS = 5.0


class Finding(NamedTuple):
    """`level` is `ok`, `warning` or `error`; `remedy` says what to do."""

    level: str
    what: str
    remedy: str = ""
