"""LLM API: a small WSGI service that turns a prompt into text.

The layer rule: imports point down this list only. Views translate HTTP, the generator leads a request's life, backends
translate providers' formats; what crosses the walls are the types, and only views touch flask.request, only backends
touch requests.

    __init__                      create_app
    extension   testing           LLMAPI, for an app that is there; for those who test with it
    routes      cli               the service's own views; flask llm …
    openai_routes pages           OpenAI's views; what people look at
    web         openapi           what all views share; the description of the API
    service     doctor            what the views of one mount share; what is wrong with a deployment
    health      models            whether the service can serve; which models it has
    dashboard                     the numbers and requests of a log, for a page
    limits                        who may ask, and how often
    log_show                      records for a terminal
    log_repair                    its broken lines
    openai_schemas                OpenAI's bodies to types
    schemas     generator         bodies to types; one request's life
    metrics                       what Prometheus is told
    record      structured        what the log says of it; answers that must be JSON
    backends/   breaker           the providers; leaving one alone that keeps failing
    request_log deadline          appending a line; stopping what takes too long
    pump        per_process       reading ahead in a thread; what a forked child must not share
    log_stats                     the numbers of a log
    log_files                     reading its files
    config      strict_json       settings; JSON
    rules                         how the text of a setting becomes its value
    types       errors            what everybody knows
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import Settings

if TYPE_CHECKING:
    from flask import Flask

    from .extension import LLMAPI

__all__ = ["LLMAPI", "Settings", "create_app"]


def __getattr__(name: str) -> Any:
    """Import the rest when it is asked for: gunicorn.conf.py reads the settings before gevent patches the rest."""
    if name == "LLMAPI":
        from .extension import LLMAPI

        return LLMAPI
    raise AttributeError(name)


def create_app(settings: Settings | None = None) -> Flask:
    """Return the service as a Flask app. `settings` default to the environment and `.env` in the working folder.

    Raises ConfigError where a setting is wrong. Nothing is opened and no model is loaded before the first request.
    """
    from .extension import make_app

    return make_app(settings or Settings.load())
