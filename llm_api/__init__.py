"""LLM API: a small WSGI service that turns a prompt into text.

Imports point down: cli > web > dialects > exchange > backends > log, runtime > settings > types, errors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    from flask import Flask

    from .backends import Backend
    from .web.extension import LLMAPI

__all__ = ["LLMAPI", "Settings", "create_app"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the rest when it is asked for: settings can be read without Flask."""
    if name == "LLMAPI":
        from .web.extension import LLMAPI

        return LLMAPI
    raise AttributeError(name)


def create_app(settings: Settings | None = None, backends: Iterable[Backend] | None = None) -> Flask:
    """Return the service as a Flask app. `settings` default to those that gunicorn.conf.py has read, else to the
    environment and `.env` in the working folder; `backends` replaces those that they name.

    Raises ConfigError where a setting is wrong. Nothing is opened and no model is loaded before the first request.
    """
    from .web.extension import make_app

    settings = settings or Settings.running or Settings.load()
    if "gunicorn.arbiter" in sys.modules and "llm_api.runtime.gunicorn" not in sys.modules:
        _warn_of_gunicorn(settings)
    return make_app(settings, backends)


def _warn_of_gunicorn(settings: Settings) -> None:
    file = Path(__file__).parents[1] / "gunicorn.conf.py"
    what = file if file.exists() else f"this project's {file.name}"  # an installed package has none beside it
    strangers = "" if settings.api_keys else ", whoever reaches it needs no key (API_KEYS)"
    sys.stderr.write(
        f"llm_api: WARNING: gunicorn has not read {what}, so BIND, THREADS and WEB_CONCURRENCY do nothing, long "
        f"answers are cut{strangers}, and /metrics shows one worker: start gunicorn with -c and that file\n"
    )
