"""LLM API: a small WSGI service that turns a prompt into text.

The layer rule: imports point down this list only. Views translate HTTP, the generator leads a request's life, backends
translate providers' formats; what crosses the walls are the types, and only views touch flask.request, only backends
touch requests.

    __init__                      create_app
    routes      cli               the views; flask llm …
    health      log_show          whether the service can serve; records for a terminal
    schemas     generator         bodies to types; one request's life
                record            what the log says of it
    backends/   breaker           the providers; leaving one alone that keeps failing
    request_log deadline          appending a line; stopping what takes too long
    log_stats                     the numbers of a log
    log_files                     reading its files
    config      strict_json       settings; JSON
    types       errors            what everybody knows
"""

from __future__ import annotations

from flask import Flask
from werkzeug.exceptions import HTTPException

from .cli import llm
from .config import Settings
from .generator import Generator
from .health import Health
from .request_log import RequestLog
from .routes import Service, blueprint, http_error_response
from .schemas import GenerateSchema

__all__ = ["Settings", "create_app"]


def create_app(settings: Settings | None = None) -> Flask:
    """Return the service as a Flask app. `settings` default to the environment and `.env` in the working folder.

    Raises ConfigError where a setting is wrong. Nothing is opened and no model is loaded before the first request.
    """
    settings = settings or Settings.load()
    app = Flask(__name__, static_folder=None)
    generator = Generator(settings, RequestLog(settings))
    app.extensions["llm_api"] = Service(
        settings, generator, Health(generator), GenerateSchema(settings.max_prompt_chars)
    )
    app.register_blueprint(blueprint)
    app.cli.add_command(llm)
    app.register_error_handler(HTTPException, http_error_response)
    return app
