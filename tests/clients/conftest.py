"""The services that the clients are pointed at."""

from __future__ import annotations

from e2e.conftest import require, smollm2

__all__ = ["require", "smollm2"]
