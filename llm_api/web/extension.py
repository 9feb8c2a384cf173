"""LLM API as an extension of a Flask app that is already there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pkgutil import resolve_name
from typing import Any

import click
from flask import Flask
from werkzeug.exceptions import HTTPException

from ..backends import Backend
from ..errors import ConfigError, LLMAPIError
from ..exchange.chain import Hooks
from ..settings import PREFIX, Settings
from .http import answer_error, answer_hosts_error, frame_no_route
from .routes import blueprint
from .service import Service


class _Commands(click.Group):
    """`flask llm …`, imported when it is run: a worker needs no command line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._loaded().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._loaded().get_command(ctx, cmd_name)

    def _loaded(self) -> click.Group:
        group: click.Group = resolve_name("llm_api.cli.commands:llm")
        return group


# click has colours on terminals only, but does not look at NO_COLOR
_settings = {"color": False if os.environ.get("NO_COLOR") else None}
COMMANDS = _Commands("llm", help="LLM API.", context_settings=_settings)


class LLMAPI:
    """`LLMAPI(app, url_prefix="/llm")`, or `LLMAPI(url_prefix="/llm")` and later `init_app(app)`.

    A setting comes from the keyword of its name in small letters, else from `app.config["LLM_API_" + NAME]`, else from
    the environment, else it is the default; a host's `.env` is the host's to read. `settings` replaces all of them.

    The host may say: `caller()`, called in the request, returns who asks, for the log and the limits; it may raise
    llm_api.errors.Unauthorized. `operator()`, called so too, says whether that one sees everybody's requests, and not
    only its own. `may_use(caller, model)` says whether that one may use `backend/model`.
    `redact(record)` returns the log's record as it is to be written; a stream's has no request context any more.

    `fronts` are the APIs that are served, such as ("openai",), as the setting FRONTS.

    `backends` replaces the backends that the settings name, first the one to ask first.

    `csrf_exempt`, such as Flask-WTF's `csrf.exempt`, is called with each view of ours. With `handle_errors`, an error
    of llm_api.errors that a view of the host's does not catch is answered in JSON, with its status.

    Several may hang in one app, each under a prefix of its own; without one, `/` is the playground.
    Raises ConfigError where a setting or the prefix is wrong, TypeError where `app` is no Flask app.
    """

    def __init__(
        self,
        app: Flask | None = None,
        url_prefix: str | None = None,
        *,
        settings: Settings | None = None,
        caller: Callable[[], str | None] | None = None,
        operator: Callable[[], bool] | None = None,
        may_use: Callable[[str | None, str], bool] | None = None,
        redact: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        backends: Iterable[Backend] | None = None,
        csrf_exempt: Callable[[Callable[..., Any]], object] | None = None,
        handle_errors: bool = False,
        **given: Any,
    ) -> None:
        self._url_prefix = url_prefix
        self._settings = settings
        self._hooks = Hooks(may_use, redact, caller, operator)
        self._backends = backends
        self._csrf_exempt = csrf_exempt
        self._handle_errors = handle_errors
        self._given = given
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, url_prefix: str | None = None) -> None:
        """Hang the views, `flask llm` and the Python calls into `app`. Nothing is opened or loaded yet.

        `url_prefix` comes before the one that the object was made with.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"LLMAPI hangs in a Flask app, not in {app!r}: LLMAPI(app, url_prefix='/llm')")
        mounts = app.extensions.get("llm_api", {})
        prefix = _free_prefix(url_prefix or self._url_prefix or "", mounts)
        name = f"llm_api{len(mounts) + 1}" if mounts else "llm_api"
        settings = self._settings or self._load(app)
        if settings.operators and not settings.api_keys and self._hooks.caller:
            raise ConfigError("OPERATORS are names of API_KEYS, and there are none: for callers of yours say operator=")
        here = Service(settings, self._hooks, self._backends, prefix)
        app.register_blueprint(blueprint, name=name, url_prefix=prefix or None, fronts=settings.fronts)
        app.extensions["llm_api"] = mounts | {name: here}
        if not mounts:
            app.before_request(frame_no_route)
        app.cli.commands.setdefault("llm", COMMANDS)  # the host may have one of its own
        if self._csrf_exempt:
            for endpoint, view in app.view_functions.items():
                if endpoint.startswith(f"{name}."):
                    self._csrf_exempt(view)
        if self._handle_errors:
            app.register_error_handler(LLMAPIError, answer_hosts_error)

    @staticmethod
    def of(app: Flask, url_prefix: str | None = None) -> Service:
        """Return what `app` has under `url_prefix`, or its first: `of(current_app).generate("…")`.

        Raises KeyError where it has none.
        """
        mounts: dict[str, Service] = app.extensions.get("llm_api", {})
        for service in mounts.values():
            if url_prefix is None or service.prefix == url_prefix.rstrip("/"):
                return service
        raise KeyError(f"no LLMAPI hangs in this app{f' under {url_prefix}' if url_prefix else ''}")

    @staticmethod
    def begin(app: Flask) -> None:
        """Begin what the first request would wait for, a local model, in a process that is to answer. Does not wait."""
        for service in app.extensions["llm_api"].values():
            service.begin()

    def _load(self, app: Flask) -> Settings:
        given = {name.upper(): value for name, value in self._given.items()}
        return Settings.load(None, given, app.config.get_namespace(PREFIX, lowercase=False))


def make_app(settings: Settings, backends: Iterable[Backend] | None = None) -> Flask:
    """Return an app that has nothing else."""
    app = Flask("llm_api", static_folder=None)
    app.url_map.merge_slashes = False  # a redirect would be Werkzeug's own page, and say nothing of the API
    LLMAPI(app, settings=settings, backends=backends)
    app.register_error_handler(HTTPException, answer_error)
    return app


def _free_prefix(said: str, mounts: Mapping[str, Service]) -> str:
    """Return the prefix without a slash at its end. Raises ConfigError where it is no fixed path, or taken."""
    prefix = said.rstrip("/")
    if not re.fullmatch(r"(/[^/<>?#\s]+)*", prefix):
        raise ConfigError(f"url_prefix={said!r} is not valid: a path such as /llm, without variables")
    if prefix in [service.prefix for service in mounts.values()]:
        where = prefix or "/"
        raise ConfigError(f"LLM API hangs in this app under {where} already; a second one needs another url_prefix")
    return prefix
