"""The server that runs, and what it was installed from."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ... import strict_json
from ...backends.http.connections import UnixConnection
from ...errors import LLMAPIError
from ...settings import Settings
from .finding import CHECK_SECONDS, Finding


def check(settings: Settings) -> Iterator[Finding]:
    """Yield what is found of gunicorn and of the lock that it was installed from."""
    yield from _gunicorn(settings)
    yield from _lock()


def told(bind: str) -> dict[str, Any]:
    """Return what the server that runs there tells of its settings, only its backend where it wants a key for more."""
    with suppress(OSError, http.client.HTTPException, LLMAPIError):
        for path in ("/config", "/health"):
            if "backend" in (told := _get(bind, path)):
                return told
    return {}


def _get(bind: str, path: str) -> dict[str, Any]:
    host, _, port = bind.rpartition(":")
    by_name = partial(http.client.HTTPConnection, host.strip("[]"), timeout=CHECK_SECONDS)
    with closing(UnixConnection(port, CHECK_SECONDS) if host == "unix" else by_name(int(port))) as connection:
        connection.request("GET", path, headers={"Host": "localhost"})
        return strict_json.loads(connection.getresponse().read())


def compared(settings: Settings, told: dict[str, Any]) -> Finding:
    """Say whether the server that told this runs with these settings."""
    here = strict_json.loads(strict_json.dumps(settings.public()).encode())
    here["backend"] = here["llm_backend"]
    both = here.keys() & told.keys() - {"hf_threads"}  # it tells what it took for none
    if others := [f"{name}={told[name]}" for name in both if told[name] != here[name]]:
        what = f"the server at {settings.bind} runs with other settings than these: {', '.join(sorted(others))}"
        return Finding("warning", what, "run this with the same environment as the server, or restart that")
    if not told:
        return Finding("ok", f"this service does not answer at {settings.bind}, so this is of the settings alone")
    how = "these settings" if "bind" in told else "this backend; the rest of its settings needs a key"
    return Finding("ok", f"the server at {settings.bind} runs with {how}")


def _gunicorn(settings: Settings) -> Iterator[Finding]:
    command = [sys.executable, "-m", "gunicorn", "--print-config", "wsgi:app"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (no word of it from outside)
    said = dict(re.findall(r"^(\w+) += (.*)$", ran.stdout, re.MULTILINE))
    if ran.returncode:  # without its file gunicorn shows its own defaults
        yield Finding("warning", "gunicorn does not show its configuration here", "run this where wsgi.py is")
        return
    graceful = float(said["graceful_timeout"])
    if graceful <= settings.request_timeout:
        what = f"a stopping worker has {graceful:g} s, a request {settings.request_timeout:g} s"
        yield Finding("error", what, "raise graceful_timeout above REQUEST_TIMEOUT")
    else:
        yield Finding("ok", f"a stopping worker waits {graceful:g} s for its requests; give its supervisor 10 s more")


def _lock() -> Iterator[Finding]:
    lock = Path("requirements.txt")
    if lock.exists() and "--hash=" not in lock.read_text("utf-8", "replace"):
        what = f"{lock} has no hashes: pip takes whatever is there under the names in it"
        yield Finding("warning", what, "make lock, and install with --require-hashes: docs/dependencies.md")
