"""Logs made by hand, and `flask llm logs` over them: what the tests of the log's readers share."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from click.testing import Result

ROOT = Path(__file__).parents[1]
NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
Run = Callable[..., Result]
# What may steer a terminal: C0 but newline, DEL, C1, bidi marks.
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r\nnew line\x7f\x08"


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a record as the service writes it, `number` seconds after NOON, with `changes`."""
    whole = {
        "timestamp": NOON + number,
        "request_id": f"id-{number}",
        "operation": "generate",
        "backend": "openai",
        "requested_backend": "openai",
        "model": "far-model-1",
        "request_model": None,
        "prompt": f"prompt {number}",
        "system": None,
        "response": f"answer {number}",
        "parameters": {},
        "input_tokens": 12,
        "output_tokens": 20,
        "finish_reason": "stop",
        "stream": False,
        "duration_ms": 100.0,
        "time_to_first_chunk_ms": 20.0,
        "status": "ok",
        "http_status": 200,
        "error": None,
        "fallback": False,
        "fallback_reason": None,
        "attempts": [{"backend": "openai", "outcome": "ok", "duration_ms": 99.0}],
        "client_ip": "127.0.0.1",
        "caller": None,
        "trace_id": None,
        "schema_version": 2,
    }
    return whole | changes


def line(number: int = 0, **changes: Any) -> bytes:
    """Return that record as a line of the log."""
    return json.dumps(record(number, **changes)).encode() + b"\n"


def write(path: Path, lines: Iterable[bytes]) -> bytes:
    """Write a log, or a gzipped one where its name says so; return its bytes unpacked."""
    data = b"".join(lines)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return data


def answered(result: Result, exit_code: int = 0) -> str:
    """Return what a command printed; fail where it ended otherwise, a traceback among it."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


def ids(output: str) -> list[str]:
    """Return the request ids in what a command with --json printed."""
    return [json.loads(row)["request_id"] for row in output.splitlines()]


def environment(log: Path) -> dict[str, str]:
    """Return the environment of `flask --app wsgi` with the stub and this log."""
    return os.environ | {"LOG_FILE": str(log), "LLM_BACKEND": "stub", "PYTHONWARNINGS": "error"}


def command(*arguments: str) -> list[str]:
    """Return the words that run `flask --app wsgi llm logs …`."""
    return [sys.executable, "-m", "flask", "--app", "wsgi", "llm", "logs", *arguments]
