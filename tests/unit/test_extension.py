"""LLM API inside a Flask app that is there: prefixes, settings, what stays the host's, and what the host may say."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import click
import pytest
from asking import Log
from flask import Blueprint, Flask, Response, current_app, g, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from llm_api import LLMAPI, Settings
from llm_api.errors import (
    BadCredentials,
    ConfigError,
    InternalError,
    LLMAPIError,
    ModelNotFound,
    Overloaded,
    RateLimited,
    TimedOut,
    Unauthorized,
)
from llm_api.testing import ScriptedBackend

ASK = {"prompt": "Hello"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLM_BACKEND", "LLM_FALLBACK", "OLLAMA_MODEL", "LOG_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mount(log_path: Path) -> Callable[..., Flask]:
    """Return what hangs LLM API under /llm of an app (a new one by default), with the stub and a log of the test's."""

    def hang(app: Flask | None = None, url_prefix: str | None = "/llm", **said: Any) -> Flask:
        app = app or Flask("host")
        LLMAPI(app, url_prefix, **{"llm_backend": "stub", "llm_fallback": "none", "log_file": log_path} | said)
        return app

    return hang


# --- prefixes and apps


@pytest.mark.parametrize("prefix", [None, "/llm", "/a/b"])
def test_every_route_is_under_the_prefix(mount: Callable[..., Flask], prefix: str | None) -> None:
    """The routes hang under the prefix, /v1 too, and none elsewhere."""
    app = mount(url_prefix=prefix)
    client, root = app.test_client(), prefix or ""
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"}
    assert {f"{root}/generate", f"{root}/health", f"{root}/v1/chat/completions", f"{root}/docs"} <= rules
    assert all(rule.startswith(f"{root}/") for rule in rules)
    assert client.post(f"{root}/generate", json=ASK).status_code == 200
    assert client.get(f"{root}/v1/models").get_json()["data"][-1]["id"] == "stub/stub"


def test_two_prefixes_in_one_app(tmp_path: Path, mount: Callable[..., Flask]) -> None:
    """Each prefix has its own settings and its own log; `of` finds each, and the first one by default."""
    app = mount(url_prefix="/a", ollama_model="a", log_file=tmp_path / "a")
    mount(app, url_prefix="/b", ollama_model="b", log_file=tmp_path / "b")
    client = app.test_client()
    assert [client.get(f"{prefix}/config").get_json()["ollama_model"] for prefix in ("/a", "/b")] == ["a", "b"]
    client.post("/b/generate", json=ASK)
    client.post("/b/v1/completions", json=ASK | {"model": "default"})
    assert ((tmp_path / "a").exists(), len((tmp_path / "b").read_text().splitlines())) == (False, 2)
    LLMAPI.of(app).generate("Hello")
    LLMAPI.of(app, "/b").generate("Hello")
    assert [len((tmp_path / name).read_text().splitlines()) for name in "ab"] == [1, 3]
    with pytest.raises(KeyError, match="/c"):
        LLMAPI.of(app, "/c")


@pytest.mark.parametrize("said", ["/llm", "/llm/", "/"])
def test_the_prefix_of_init_app(log_path: Path, said: str) -> None:
    """init_app takes the prefix too, and it comes before the object's own; a slash at its end changes nothing."""
    app = Flask("host")
    LLMAPI(url_prefix="/other", llm_backend="stub", log_file=log_path).init_app(app, said)
    root = said.rstrip("/")
    assert app.test_client().post(f"{root}/generate", json=ASK).status_code == 200
    assert app.test_client().post("/other/generate", json=ASK).status_code == 404
    assert LLMAPI.of(app, said) is LLMAPI.of(app)


@pytest.mark.parametrize(("one", "two"), [("/llm", "/llm"), ("/llm", "/llm/"), (None, ""), ("/", None)])
def test_twice_under_one_prefix(mount: Callable[..., Flask], one: str | None, two: str | None) -> None:
    """A second one in the same place is refused, whoever it is, and the first one serves as before."""
    app = mount(url_prefix=one)
    extension = LLMAPI(url_prefix=two, llm_backend="stub")
    for again in (lambda: LLMAPI(app, two, llm_backend="stub"), lambda: extension.init_app(app)):
        with pytest.raises(ConfigError, match=f"under {(one or '').rstrip('/') or '/'} already"):
            again()
    assert list(app.extensions["llm_api"]) == ["llm_api"]
    assert app.test_client().post(f"{(one or '').rstrip('/')}/generate", json=ASK).status_code == 200


@pytest.mark.parametrize("prefix", ["llm", "/<tenant>/llm", "http://host/llm", "/a//b", "/a?b", "/a#b", "/a "])
def test_a_prefix_that_is_none(prefix: str) -> None:
    """What is no fixed path is refused with words, and the app has nothing of ours."""
    app = Flask("host")
    with pytest.raises(ConfigError, match=re.escape(f"url_prefix={prefix!r} is not valid: a path such as /llm")):
        LLMAPI(app, prefix, llm_backend="stub")
    assert "llm_api" not in app.extensions


@pytest.mark.parametrize("thing", [Blueprint("api", __name__), "/llm", make_server, Flask], ids=range(4))
@pytest.mark.parametrize("hang", [LLMAPI, LLMAPI().init_app])
def test_what_is_no_app(thing: Any, hang: Callable[[Any], object]) -> None:
    """A blueprint, a path, a factory or the class in the app's place is a TypeError that says what to write."""
    with pytest.raises(TypeError, match=rf"LLMAPI hangs in a Flask app, not in {re.escape(repr(thing))}: LLMAPI\(app"):
        hang(thing)


def test_an_app_without_it() -> None:
    """`of` says what is missing."""
    with pytest.raises(KeyError, match="no LLMAPI hangs in this app"):
        LLMAPI.of(Flask("host"))


def test_two_apps_in_one_process(tmp_path: Path, mount: Callable[..., Flask]) -> None:
    """One LLMAPI object serves several apps, as extensions do: each has its own settings from its own config."""
    extension, apps = LLMAPI(url_prefix="/llm", llm_backend="stub"), [Flask("one"), Flask("two")]
    for app in apps:
        app.config["LLM_API_LOG_FILE"] = tmp_path / app.name
        extension.init_app(app)
        assert app.test_client().post("/llm/generate", json=ASK).status_code == 200
    assert [len((tmp_path / app.name).read_text().splitlines()) for app in apps] == [1, 1]
    assert LLMAPI.of(apps[0]) is not LLMAPI.of(apps[1])


def test_the_description_knows_its_prefix(mount: Callable[..., Flask]) -> None:
    """Each mount describes itself, behind a server's own prefix too, and the page's files are where it looks."""
    app = mount(url_prefix="/a")
    mount(app, url_prefix="/b")
    client = app.test_client()
    for prefix in ("/a", "/b"):
        said = client.get(f"{prefix}/openapi.json", environ_overrides={"SCRIPT_NAME": "/outer"}).get_json()
        assert said["servers"] == [{"url": "./"}]
        assert {"/generate", "/health", "/v1/chat/completions"} <= set(said["paths"])
        assert not [path for path in said["paths"] if path.startswith(("/a/", "/b/"))]
        with client.get(f"{prefix}/docs") as page:
            files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert files
        for name in files:
            with client.get(urljoin(f"{prefix}/docs", name)) as file:
                assert file.status_code == 200


# --- settings


@pytest.mark.parametrize(
    ("said", "config", "environ", "model"),
    [
        ({}, {}, {}, "llama2"),
        ({}, {}, {"OLLAMA_MODEL": "env"}, "env"),
        ({}, {"LLM_API_OLLAMA_MODEL": "config"}, {"OLLAMA_MODEL": "env"}, "config"),
        ({"ollama_model": "said"}, {"LLM_API_OLLAMA_MODEL": "config"}, {"OLLAMA_MODEL": "env"}, "said"),
        ({"ollama_model": None}, {"LLM_API_OLLAMA_MODEL": "config"}, {}, "config"),
        ({"settings": Settings(ollama_model="whole")}, {"LLM_API_OLLAMA_MODEL": "config"}, {}, "whole"),
        ({}, {"OLLAMA_MODEL": "not ours", "LLM_BACKEND": "not ours"}, {}, "llama2"),
    ],
)
def test_order_of_settings(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    said: dict[str, Any],
    config: dict[str, str],
    environ: dict[str, str],
    model: str,
) -> None:
    """Argument > app.config > environment > default; a .env beside is the host's own affair."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("OLLAMA_MODEL=file")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    app = Flask("host")
    app.config |= config
    LLMAPI(app, **said)
    assert LLMAPI.of(app).settings.ollama_model == model


def test_settings_as_python_values(mount: Callable[..., Flask]) -> None:
    """Numbers, truths, paths and lists are taken as they are in Python, by both ways."""
    app = Flask("host")
    app.config |= {"LLM_API_LOG_PROMPTS": False, "LLM_API_REQUEST_TIMEOUT": 7, "LLM_API_CORS_ORIGINS": ["http://a"]}
    settings = LLMAPI.of(mount(app, llm_fallback=["openai", "stub"], max_retries=0)).settings
    assert (settings.log_prompts, settings.request_timeout, settings.cors_origins) == (False, 7.0, ("http://a",))
    assert (settings.llm_fallback, settings.max_retries) == (("openai", "stub"), 0)
    assert LLMAPI.of(mount(llm_fallback=[])).settings.llm_fallback == ()
    assert LLMAPI.of(mount(cors_origins=[], api_keys=())).settings.cors_origins == ()


@pytest.mark.parametrize(
    ("said", "config", "words"),
    [
        ({"llm_backend": "gpt"}, {}, "LLM_BACKEND='gpt' is not valid"),
        ({"llm_backnd": "stub"}, {}, "LLM_BACKND is not a setting, did you mean LLM_BACKEND"),
        ({}, {"LLM_API_BACKEND": "stub"}, "BACKEND is not a setting, did you mean LLM_BACKEND"),
        ({}, {"LLM_API_MAX_RETRIES": -1}, "MAX_RETRIES='-1' is not valid"),
    ],
)
def test_a_wrong_setting_ends_the_start(said: dict[str, Any], config: dict[str, Any], words: str) -> None:
    """A wrong value or name is a ConfigError that names it, when the app is made."""
    app = Flask("host")
    app.config |= config
    with pytest.raises(ConfigError, match=words):
        LLMAPI(app, **said)


# --- what stays the host's


@pytest.fixture
def host() -> Flask:
    return make_host()


def make_host() -> Flask:
    """Return an app that has its own of everything: errors, JSON, commands, hooks."""
    app = Flask("host")

    class Shouting(DefaultJSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return super().dumps(obj, **kwargs).upper()

    app.json = Shouting(app)

    @app.errorhandler(Exception)
    def broken(error: Exception) -> tuple[str, int]:
        return f"the host's page: {type(error).__name__}", getattr(error, "code", 500)

    @app.errorhandler(404)
    def missing(error: HTTPException) -> tuple[str, int]:
        return "the host's 404", 404

    @app.before_request
    def before() -> None:
        g.seen = request.path

    @app.after_request
    def after(response: Response) -> Response:
        response.headers["X-Host"] = g.seen
        return response

    @app.cli.command("greet")
    def greet() -> None:
        click.echo("hello from the host")

    @app.get("/json")
    def json_view() -> Response:
        return jsonify(a="b")

    @app.get("/broken")
    def broken_view() -> str:
        raise RuntimeError

    return app


def post(app: Flask, body: bytes = b'{"prompt": "Hello"}') -> TestResponse:
    """Post these bytes: a test client's own JSON is the host's."""
    return app.test_client().post("/llm/generate", data=body, content_type="application/json")


def answers(client: FlaskClient) -> list[tuple[int, str, dict[str, str]]]:
    """Return what the host says to each of its own paths."""
    replies = [client.get(path) for path in ("/json", "/broken", "/none", "/llm-not")] + [client.post("/json")]
    return [(reply.status_code, reply.text, dict(reply.headers)) for reply in replies]


def test_the_hosts_own_answers_are_untouched(mount: Callable[..., Flask], host: Flask) -> None:
    """Pages, errors and headers of the host are byte for byte those it had before."""
    before = answers(host.test_client())
    assert answers(mount(make_host()).test_client()) == before
    assert before[1][:2] == (500, "the host's page: RuntimeError")


def test_our_answers_are_ours(mount: Callable[..., Flask], host: Flask) -> None:
    """The host's JSON and error pages have no part in our answers; its hooks see our requests as all others."""
    mount(host)
    answered, refused, unread = post(host), post(host, b"{}"), post(host, b"x")
    assert (answered.status_code, list(answered.get_json())) == (200, ["response"])
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (422, "validation_failed")
    assert (unread.status_code, unread.get_json()["error"]["code"]) == (400, "malformed_json")
    assert {reply.headers["X-Host"] for reply in (answered, refused, unread)} == {"/llm/generate"}


def test_what_a_hosts_hook_refuses_is_json_here(mount: Callable[..., Flask], host: Flask, log_lines: Log) -> None:
    """A host that stops requests in before_request stops ours; who is under our prefix gets JSON, and no line."""

    @host.before_request
    def maintenance() -> None:
        raise RuntimeError("canary")

    reply = post(mount(host))
    assert (reply.status_code, reply.get_json()["error"]["code"]) == (500, "internal_error")
    assert "canary" not in reply.text
    assert log_lines() == []


@pytest.mark.parametrize("first", [True, False])
def test_what_has_no_route_under_the_prefix(mount: Callable[..., Flask], first: bool) -> None:
    """It is JSON that names the routes, or 405 with Allow; the host's functions run around it, in any order."""
    host = mount(make_host()) if first else make_host()
    host.before_request(lambda: setattr(g, "late", "yes"))
    host.after_request(lambda response: response.headers.set("X-Late", g.late) or response)
    client = (host if first else mount(host)).test_client()
    for path, known in (("v1/edits", "/llm/v1/completions"), ("nowhere", "/llm/generate")):
        missing = client.post(f"/llm/{path}")
        assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "not_found")
        assert known in missing.get_json()["error"]["message"]
        assert (missing.headers["X-Host"], missing.headers["X-Late"]) == (f"/llm/{path}", "yes")
    wrong = client.get("/llm/v1/chat/completions")
    assert (wrong.status_code, wrong.get_json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]
    assert [client.get(path).text for path in ("/llmx/v1/y", "/v1/y")] == ["the host's 404"] * 2


def test_without_a_prefix_the_rest_is_the_hosts(mount: Callable[..., Flask]) -> None:
    """At the top of a host only /v1 is ours; the routes that are named are ours alone."""
    host = make_host()
    host.add_url_rule("/v1/secret", "secret", lambda: "the host's")
    client = mount(host, url_prefix=None).test_client()
    assert client.get("/nowhere").text == "the host's 404"
    assert client.get("/v1/secret").text == "the host's"
    words = client.get("/v1/edits").get_json()["error"]["message"]
    assert "/v1/models" in words
    assert "secret" not in words


def test_without_a_prefix_a_route_is_ours_by_every_method(mount: Callable[..., Flask]) -> None:
    """A wrong method is told in the words of the route's clients; on a host's route it is the host's to tell."""
    host = make_host()
    host.add_url_rule("/theirs", "theirs", lambda: "the host's")
    host.add_url_rule("/moved", "moved", redirect_to="/theirs", methods=["GET"])
    client = mount(host, url_prefix=None).test_client()
    for path in ("/api/chat", "/generate", "/v1/messages"):
        reply = client.get(path)
        assert (reply.status_code, reply.mimetype, "POST" in reply.headers["Allow"]) == (405, "application/json", True)
        assert isinstance(reply.get_json()["error"], str if path == "/api/chat" else dict)
    for path in ("/theirs", "/moved"):
        reply = client.post(path)
        assert (reply.status_code, reply.mimetype) == (405, "text/html")


def test_the_hosts_limit_of_bodies_is_no_limit_here(mount: Callable[..., Flask], host: Flask) -> None:
    """MAX_CONTENT_LENGTH stays the host's; MAX_BODY_BYTES is ours."""
    host.config["MAX_CONTENT_LENGTH"] = 10
    mount(host, max_body_bytes=100)
    assert [post(host, json.dumps({"prompt": "x" * size}).encode()).status_code for size in (50, 100)] == [200, 413]


def test_commands_of_the_host(mount: Callable[..., Flask], host: Flask) -> None:
    """The host's commands work beside `flask llm`, which asks the app's first mount."""
    runner = mount(host).test_cli_runner()
    assert runner.invoke(args=["greet"]).output == "hello from the host\n"
    assert runner.invoke(args=["llm", "generate", "Hello"]).output.startswith("[stub]")


def test_a_host_with_a_command_of_the_same_name_keeps_it(mount: Callable[..., Flask], host: Flask) -> None:
    """A host that has `flask llm` for itself loses nothing."""
    host.cli.command("llm")(lambda: click.echo("the host's llm"))
    assert mount(host).test_cli_runner().invoke(args=["llm"]).output == "the host's llm\n"


def test_logging_of_the_host(mount: Callable[..., Flask], host: Flask) -> None:
    """No logger of the process gets a level, a handler or a filter."""
    loggers = [logging.getLogger(name) for name in ("", "host", "werkzeug", "llm_api")]
    before = [(log.level, log.handlers[:], log.filters[:], log.propagate, log.disabled) for log in loggers]
    assert post(mount(host)).status_code == 200
    assert [(log.level, log.handlers, log.filters, log.propagate, log.disabled) for log in loggers] == before


def test_config_and_extensions_of_the_host(mount: Callable[..., Flask], host: Flask) -> None:
    """Nothing but our own entry is added to either."""
    host.extensions["other"] = marker = object()
    config, keys = dict(host.config), set(host.extensions)
    mount(host)
    assert (dict(host.config), set(host.extensions) - keys) == (config, {"llm_api"})
    assert host.extensions["other"] is marker


FAILED = [
    (Overloaded("busy", retry_after=7), 503, "7"),
    (RateLimited("slow down", retry_after=3), 429, "3"),
    (TimedOut("late"), 504, None),
    (BadCredentials("no"), 502, None),
    (ModelNotFound("none"), 404, None),
    (InternalError(), 500, None),
]


@pytest.mark.parametrize("view", ["whole", "pieces"])
@pytest.mark.parametrize(("error", "status", "seconds"), FAILED, ids=lambda value: type(value).__name__)
def test_errors_in_views_of_the_host(
    mount: Callable[..., Flask],
    llm_stub: ScriptedBackend,
    view: str,
    error: LLMAPIError,
    status: int,
    seconds: str | None,
) -> None:
    """With handle_errors, what a view doesn't catch is that error's status in JSON; without, it is the host's."""
    for asked, host in ((True, make_host()), (False, make_host())):
        mount(host, handle_errors=asked)
        host.add_url_rule("/whole", "whole", lambda: str(LLMAPI.of(current_app).generate("x")))
        host.add_url_rule("/pieces", "pieces", lambda: next(LLMAPI.of(current_app).stream("x")))
        llm_stub.fails(error)
        reply = host.test_client().get(f"/{view}")
        if asked:
            assert (reply.status_code, reply.headers.get("Retry-After")) == (status, seconds)
            assert reply.get_json() == {"error": error.public()}
            assert reply.headers["X-Host"] == f"/{view}"
        else:
            assert reply.text == f"the host's page: {type(error).__name__}"


def test_a_host_may_handle_some_errors_itself(mount: Callable[..., Flask], llm_stub: ScriptedBackend) -> None:
    """A handler of the host's for a narrower class, or one in the view's blueprint, comes first; ours are untouched."""
    host = mount(make_host(), handle_errors=True)
    host.register_error_handler(Overloaded, lambda error: ("later", 418))
    pages = Blueprint("pages", __name__)
    pages.register_error_handler(Exception, lambda error: ("the page's", 419))
    for name, app in (("own", host), ("inner", pages)):
        app.add_url_rule(f"/{name}", name, lambda: str(LLMAPI.of(current_app).generate("x")))
    host.register_blueprint(pages)
    for path, said in (("/own", "later"), ("/inner", "the page's")):
        llm_stub.fails(Overloaded("busy"))
        assert host.test_client().get(path).text == said
    llm_stub.fails(Overloaded("busy"))
    assert post(host).get_json()["error"]["code"] == "overloaded"


def test_every_view_of_ours_is_exempt(mount: Callable[..., Flask]) -> None:
    """`csrf_exempt` gets all views of each mount, and none of the host's."""
    host, exempt = make_host(), []
    mount(host, csrf_exempt=exempt.append)
    mount(host, url_prefix="/two", csrf_exempt=exempt.append)
    ours = [view for endpoint, view in host.view_functions.items() if endpoint.startswith("llm_api")]
    assert len(ours) > 20
    assert exempt == ours


# --- what the host may say


def who_asks() -> str:
    """Say who asks by a header, as a host with sessions would by its session."""
    if "X-User" not in request.headers:
        raise Unauthorized("log in first")
    return request.headers["X-User"]


def as_user(name: str) -> dict[str, str]:
    return {"X-User": name}


def test_the_caller_is_in_the_log(mount: Callable[..., Flask], log_lines: Log) -> None:
    """Who asks stands in the line, in both dialects; a caller that is refused gets 401 and a line without a name."""
    client = mount(caller=who_asks).test_client()
    client.post("/llm/generate", json=ASK, headers=as_user("ada"))
    client.post("/llm/v1/completions", json=ASK | {"model": "default"}, headers=as_user("bob"))
    refused = client.post("/llm/generate", json=ASK)
    assert (refused.status_code, refused.get_json()["error"]["message"]) == (401, "log in first")
    assert [(line["caller"], line["http_status"]) for line in log_lines()] == [("ada", 200), ("bob", 200), (None, 401)]


def test_the_caller_is_asked_for_on_other_routes_too(mount: Callable[..., Flask]) -> None:
    """What shows settings or models is for callers; the health is for everybody."""
    client = mount(caller=who_asks).test_client()
    closed = [client.get(f"/llm/{path}").status_code for path in ("config", "v1/models", "metrics", "openapi.json")]
    assert closed == [401] * 4
    assert client.get("/llm/health").status_code == 200
    assert client.get("/llm/config", headers=as_user("ada")).status_code == 200


def test_limits_count_callers(mount: Callable[..., Flask]) -> None:
    """RATE_LIMIT is for each caller of the host's, not for their common address."""
    client = mount(caller=who_asks, rate_limit="1/hour").test_client()
    said = [client.post("/llm/generate", json=ASK, headers=as_user(name)).status_code for name in ("ada", "bob", "ada")]
    assert said == [200, 200, 429]


def test_a_caller_hook_that_breaks(mount: Callable[..., Flask], log_lines: Log) -> None:
    """Nobody gets in, the client learns nothing, and the log has a line."""

    def broken() -> str:
        raise RuntimeError("canary")

    reply = mount(caller=broken).test_client().post("/llm/generate", json=ASK)
    assert (reply.status_code, "canary" in reply.text) == (500, False)
    assert [line["error"]["code"] for line in log_lines()] == ["internal_error"]


def test_who_may_use_which_model(mount: Callable[..., Flask], llm_stub: ScriptedBackend) -> None:
    """The host is asked with caller and `backend/model`; a refusal is 403 in both dialects and for Python, unasked."""
    asked: list[tuple[str | None, str]] = []

    def may_use(caller: str | None, model: str) -> bool:
        asked.append((caller, model))
        return caller == "ada"

    app = mount(caller=who_asks, may_use=may_use)
    client = app.test_client()
    said = [client.post("/llm/generate", json=ASK, headers=as_user(name)) for name in ("ada", "bob")]
    dialect = client.post("/llm/v1/completions", json=ASK | {"model": "big"}, headers=as_user("bob"))
    assert [reply.status_code for reply in (*said, dialect)] == [200, 403, 403]
    assert said[1].get_json()["error"] == {
        "message": "this caller may not use this model",
        "type": "invalid_request_error",
        "code": "model_not_allowed",
        "param": "model",
    }
    assert str(LLMAPI.of(app).generate("Hello", caller="ada")) == "stub answer"
    assert asked == [
        ("ada", "scripted/script"),
        ("bob", "scripted/script"),
        ("bob", "scripted/big"),
        ("ada", "scripted/script"),
    ]
    assert len(llm_stub.requests) == 2
    counted = {"model": "big", "messages": [{"role": "user", "content": "Hello"}]}
    said = [
        client.post("/llm/v1/messages/count_tokens", json=counted, headers=as_user(name)) for name in ("ada", "bob")
    ]
    assert [reply.status_code for reply in said] == [200, 403]
    assert said[1].get_json()["error"]["type"] == "permission_error"


def test_no_fallback_to_a_model_that_is_not_allowed(mount: Callable[..., Flask], llm_stub: ScriptedBackend) -> None:
    """A fallback that the caller may not use is left out: the failure of the first is the answer."""
    app = mount(llm_backend="ollama", llm_fallback="stub", max_retries=0, may_use=lambda _, model: model != "stub/stub")
    llm_stub.fails(Overloaded("busy"))
    reply = app.test_client().post("/llm/generate", json=ASK)
    assert (reply.status_code, reply.get_json()["error"]["code"]) == (503, "overloaded")


@pytest.mark.parametrize("stream", [False, True])
def test_the_record_is_redacted(mount: Callable[..., Flask], log_lines: Log, stream: bool) -> None:
    """What the host returns is what is written, whole, streamed, refused and by Python."""
    app = mount(redact=lambda record: record | {"prompt": "[hidden]", "response": None, "team": 7})
    assert "canary" in app.test_client().post("/llm/generate", json={"prompt": "canary", "stream": stream}).text
    app.test_client().post("/llm/generate", json={"prompt": "canary", "max_tokens": 0, "stream": stream})
    LLMAPI.of(app).generate("canary")
    assert [(line["prompt"], line["team"], line["http_status"]) for line in log_lines()] == [
        ("[hidden]", 7, 200),
        ("[hidden]", 7, 422),
        ("[hidden]", 7, 200),
    ]
    assert "canary" not in json.dumps(log_lines())


def test_a_redaction_that_breaks_writes_nothing_bare(mount: Callable[..., Flask], log_path: Path) -> None:
    """A record that could not be redacted is not written as it is, and its request is not answered."""

    def broken(record: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("canary")

    reply = mount(redact=broken).test_client().post("/llm/generate", json={"prompt": "canary"})
    assert (reply.status_code, "canary" in reply.text) == (500, False)
    assert "canary" not in (log_path.read_text() if log_path.exists() else "")


@pytest.mark.parametrize(
    "said",
    [
        {"redact": lambda record: 1 / 0},
        {"redact": lambda record: record | {"team": object()}},
        {"caller": object},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_hook_that_breaks_leaves_a_bare_line(
    mount: Callable[..., Flask], log_lines: Log, said: dict[str, Any], stream: bool
) -> None:
    """The request fails, and its line has its id and the error, but no word that a redaction might have taken away."""
    reply = mount(**said).test_client().post("/llm/generate", json={"prompt": "canary", "stream": stream})
    assert "internal_error" in reply.text
    (line,) = log_lines()
    assert (line["status"], line["error"]["code"]) == ("error", "internal_error")
    assert line["request_id"] == reply.headers["X-Request-ID"]
    assert "canary" not in json.dumps(line)


def test_a_redaction_in_place(mount: Callable[..., Flask], log_lines: Log) -> None:
    """A hook may also change the record that it is given, and return nothing."""
    mount(redact=lambda record: record.update(prompt="[hidden]")).test_client().post("/llm/generate", json=ASK)
    assert [line["prompt"] for line in log_lines()] == ["[hidden]"]
