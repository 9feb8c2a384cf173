"""Keys and passwords never leave the process, in success and in failure: figure 17 of the reliability page."""

import base64
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asking
import pytest
import requests
from asking import GENERATE
from fakes import Fake
from flask import Flask
from flask.testing import FlaskClient
from providers import AT_ONCE, CLAUDE, HUGGING_FACE, OLLAMA, OPENAI, FarEnd, Provider
from responses import RequestsMock
from werkzeug.test import TestResponse

from llm_api import LLMAPI, Settings, create_app
from llm_api.backends import Backend
from llm_api.errors import ConfigError, ServerError
from llm_api.rules import KEYS
from llm_api.types import Chunk

FIELDS = dataclasses.fields(Settings)
SECRET = [field for field in FIELDS if field.metadata["rule"].is_secret]
WITH_PASSWORD = [field for field in FIELDS if field.metadata["rule"].hides and field not in SECRET]
CALLERS_KEY = "canary-of-the-caller"
# An address is percent-encoded; both ways to write it are secret.
PASSWORD = "canary%20pass%2Fword"
BASES = {"ollama_url": OLLAMA, "hf_base_url": HUGGING_FACE, "openai_base_url": OPENAI, "claude_base_url": CLAUDE}
KEYED = {"Authorization": f"Bearer {CALLERS_KEY}"}
ROUTES = ["/config", "/metrics", "/openapi.json", "/v1/models", "/health", "/health/live", "/v1/models/x", "/nothing"]


def canary(field: dataclasses.Field[Any]) -> str:
    """Return a value for the setting whose every occurrence is a leak."""
    if field.metadata["rule"] is KEYS:
        return f"alice:{CALLERS_KEY},bob:canary-of-another"
    if field.metadata["rule"].is_secret:
        return f"canary-{field.name}-Ab1"
    hosts = {"rate_limit_storage": "redis://user:PASSWORD@127.0.0.1:1/0", "http_proxy_url": "http://user:PASSWORD@h:1"}
    return hosts.get(field.name, f"https://user:PASSWORD@{field.name.replace('_', '-')}.example/far").replace(
        "PASSWORD", PASSWORD
    )


def written(field: dataclasses.Field[Any]) -> str:
    """Return the text of a setting that holds the canary."""
    in_json = json.dumps({"x-one": canary(field)})
    return in_json if field.metadata["rule"].is_free else canary(field)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set each secret, and each address with a password."""
    for field in (*SECRET, *WITH_PASSWORD):
        monkeypatch.setenv(field.name.upper(), written(field))
    monkeypatch.setenv("RATE_LIMIT", "1000/second")


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], log_path: Path) -> Callable[..., None]:
    """Return a check that what left the process has no canary: answers, log, what was printed or logged."""

    def check(*answers: TestResponse) -> None:
        log = log_path.read_text() if log_path.exists() else ""
        printed = capfd.readouterr()
        traces = "".join(record.exc_text or "" for record in caplog.records)
        left = [f"{answer.status} {answer.headers} {answer.text}" for answer in answers]
        for text in (*left, log, caplog.text, traces, printed.out, printed.err):
            # what the requests themselves say
            assert not re.search(r"(?i)canary(?!-prompt)|pass(%2F|/)word", text), text

    return check


Watch = Callable[..., None]


@pytest.fixture
def start(environ: None, log_path: Path) -> Callable[..., Flask]:
    """Return a maker of apps with all those settings, read as at a start."""

    def make(*backends: Backend, **changes: Any) -> Flask:
        given = {"llm_fallback": (), "max_retries": 0, "log_file": str(log_path), "hf_mode": "cloud"} | changes
        return create_app(dataclasses.replace(Settings.load(None), **given), backends or None)

    return make


Start = Callable[..., Flask]


@pytest.fixture
def far_end() -> Iterator[RequestsMock]:
    with FarEnd(assert_all_requests_are_fired=False) as mock:
        yield mock


ask = functools.partial(asking.ask, headers=KEYED)


def ask_in_each_way(client: FlaskClient) -> list[TestResponse]:
    """Ask on each route, whole and streamed, with details; then look at everything there is to see."""
    asked = [ask(client, path, stream=stream) for path in GENERATE for stream in (False, True)]
    return [*asked, ask(client, details=True), *(client.get(path, headers=KEYED) for path in ROUTES)]


def test_there_is_something_to_look_for() -> None:
    """The settings that can hold a secret are found by their declaration; these are known."""
    assert {field.name for field in SECRET} >= {"openai_api_key", "claude_api_key", "hf_api_key", "api_keys"}
    assert {field.name for field in WITH_PASSWORD} >= {*BASES, "rate_limit_storage", "http_proxy_url"}
    named = [field.name for field in FIELDS if re.search("key|password|token$|secret", field.name)]
    assert set(named) <= {field.name for field in SECRET}


def test_the_settings_know_them_all(start: Start) -> None:
    """`secrets` has each, and `repr` none: tools that collect errors show variables."""
    settings = LLMAPI.of(start(llm_backend="stub")).settings
    expected = {canary(field) for field in SECRET if field.metadata["rule"] is not KEYS}
    as_sent = base64.b64encode(b"user:canary pass/word").decode()
    expected |= {PASSWORD, "canary pass/word", as_sent, CALLERS_KEY, "canary-of-another"}
    assert set(settings.secrets) == expected
    assert "canary" not in repr(settings)


def test_stub(start: Start, watch: Watch) -> None:
    """Without any backend to leak them."""
    answers = ask_in_each_way(start(llm_backend="stub").test_client())
    assert {answer.status_code for answer in answers} == {200, 404}
    watch(*answers)


@dataclasses.dataclass(frozen=True)
class Known:
    """A provider, the settings that choose it, the addresses it has here, and what it knows of us."""

    provider: Provider
    settings: dict[str, Any]
    url: str
    models_url: str
    secret: str


@pytest.fixture(params=BASES, ids=lambda setting: str(BASES[setting]))
def backend(request: pytest.FixtureRequest) -> Known:
    """A password in the address takes the key's place in the request, so only Ollama, which has no key, has one."""
    provider = BASES[request.param]
    base = canary(next(field for field in FIELDS if field.name == request.param))
    base = base.replace(f"user:{PASSWORD}@", "") if provider.key else base
    secret = next((canary(field) for field in SECRET if field.name == provider.key_setting), PASSWORD)
    settings = {"llm_backend": provider.name, request.param: base}
    return Known(provider, settings, base + provider.path, base + provider.models, secret)


def test_success(start: Start, watch: Watch, far_end: FarEnd, backend: Known) -> None:
    """With the keys in use: the provider gets its own, and nobody else any."""
    provider, url = backend.provider, backend.url
    far_end.get(backend.models_url, json={"data": [{"id": "a"}], "models": [{"name": "a", "model": "a"}]})
    far_end.post(url, json=provider.answer("Hello"))
    client = start(**backend.settings).test_client()
    answers = [ask(client, path) for path in GENERATE]
    assert [answer.status_code for answer in answers] == [200] * len(GENERATE)
    far_end.replace("POST", url, body=provider.stream("Hello"))
    streams = [ask(client, path, stream=True) for path in GENERATE]
    assert [answer.status_code for answer in streams] == [200] * len(GENERATE)
    watch(*answers, *streams, *(client.get(path, headers=KEYED) for path in ROUTES))
    sent = [value for name, value in far_end.calls[-1].request.headers.items() if "canary-" in str(value)]
    sent = [value for value in sent if "extra_headers" not in str(value)]
    assert [backend.secret in str(value) for value in sent] == ([True] if provider.key else [])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503, 504, 418])
def test_an_error_that_quotes_them(start: Start, watch: Watch, far_end: FarEnd, backend: Known, status: int) -> None:
    """An upstream that repeats our key in its message, code, param, type and headers is not repeated."""
    known = backend.secret
    words = {"message": f"Incorrect API key provided: {known}.", "code": known, "param": known, "type": known}
    headers = AT_ONCE | {"x-request-id": known, "www-authenticate": f"Bearer {known}"}
    far_end.post(backend.url, json={"error": words, "request_id": known}, status=status, headers=headers)
    far_end.get(backend.models_url, json={"error": words}, status=status, headers=headers)
    answers = ask_in_each_way(start(**backend.settings).test_client())
    assert answers[0].status_code >= 400
    assert far_end.calls[0].request.method == "POST"
    watch(*answers)


@pytest.mark.parametrize("text", ["{key}", "[{key}]", '{"error": "no key {key}"}', '{"error": {"message": ["{key}"]}}'])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_answer_without_sense(
    start: Start, watch: Watch, far_end: FarEnd, backend: Known, text: str, status: int
) -> None:
    """Nor where it is in no shape that we know, streamed or not."""
    known = backend.secret
    body = text.replace("{key}", known)
    far_end.post(backend.url, body=body, status=status, headers=AT_ONCE)
    far_end.get(backend.models_url, body=body, status=status)
    answers = ask_in_each_way(start(**backend.settings).test_client())
    assert answers[0].status_code >= 400
    assert far_end.calls[0].request.method == "POST"
    watch(*answers)


@pytest.mark.parametrize(
    "kind",
    [requests.ConnectionError, requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError],
)
def test_an_exception_that_quotes_them(
    start: Start, watch: Watch, far_end: FarEnd, backend: Known, kind: type[Exception]
) -> None:
    """The text of an exception of `requests` has the address, and may have a header."""
    known = backend.secret
    error = kind(f"HTTPSConnectionPool(user:{PASSWORD}@host): Authorization: {known}")
    far_end.post(backend.url, body=error)
    far_end.get(backend.models_url, body=error)
    answers = ask_in_each_way(start(**backend.settings).test_client())
    assert answers[0].status_code in (503, 504)
    assert far_end.calls[0].response is error
    watch(*answers)


ALL_SECRETS = [canary(field) for field in SECRET if field.metadata["rule"] is not KEYS]


@pytest.mark.parametrize("secret", [*ALL_SECRETS, CALLERS_KEY, PASSWORD, "canary pass/word"])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("is_ours", [False, True])
def test_a_backend_that_breaks(start: Start, watch: Watch, secret: str, begun: bool, is_ours: bool) -> None:
    """A bug, and an error with an upstream's words, in the middle of an answer or before it: no text of theirs."""

    def error() -> Exception:
        return ServerError("m", code=secret, detail=f"it said {secret}") if is_ours else RuntimeError(secret)

    one = Fake("stub", trouble=RuntimeError(secret))
    client = start(one, llm_backend="stub").test_client()
    for path in GENERATE:
        for stream in (False, True):
            one.turns = [[Chunk("Hi "), error()] if begun else error()]
            watch(ask(client, path, stream=stream))
    watch(*(client.get(path, headers=KEYED) for path in ROUTES))


@pytest.mark.parametrize("secret", [*ALL_SECRETS, CALLERS_KEY, PASSWORD])
def test_what_a_client_says(start: Start, log_path: Path, watch: Watch, secret: str) -> None:
    """A client that pastes a key where it does not belong finds it in no log, and in no error about it."""
    client = start(llm_backend="stub").test_client()
    ask(client, prompt=f"my key is {secret}", model=secret, stop=[secret])
    messages = [{"role": "system", "content": secret}, {"role": "user", "content": f"{secret} x"}]
    ask(client, "/v1/chat/completions", messages=messages)
    ask(client, **{secret: 1})
    client.post("/generate", json={"prompt": "x"}, headers=KEYED | {"X-Request-ID": "x", "traceparent": secret})
    client.post("/generate", json={"prompt": "x"}, headers={"x-api-key": secret + "x"})
    assert log_path.read_text().count("[redacted]") >= 4
    watch()


@pytest.mark.parametrize("on_failure", ["memory", "allow", "deny"])
def test_a_log_and_a_storage_that_fail(
    start: Start, log_path: Path, watch: Watch, on_failure: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line that goes to the error output has no secrets either, and the storage's address stays here."""
    log_path.parent.write_text("a file where the log's folder should be")
    app = start(llm_backend="stub", rate_limit_on_failure=on_failure, log_required=False, log_max_text=1000)
    answers = [ask(app.test_client(), prompt=f"canary-prompt {CALLERS_KEY}", max_tokens=5)]
    answers += [app.test_client().get(path, headers=KEYED) for path in ROUTES]
    watch(*answers)


@pytest.mark.parametrize("command", [("doctor",), ("logs", "tail"), ("logs", "tail", "--json"), ("logs", "stats")])
def test_commands(start: Start, monkeypatch: pytest.MonkeyPatch, watch: Watch, command: tuple[str, ...]) -> None:
    """What a terminal shows is copied into reports."""
    app = start(llm_backend="openai", openai_base_url="https://far.example")
    with FarEnd() as far_end:
        known = canary(next(field for field in FIELDS if field.name == "openai_api_key"))
        said = {"error": {"message": f"Incorrect API key provided: {known}", "code": "invalid_api_key"}}
        if command == ("doctor",):
            far_end.get("https://far.example/models", json=said, status=401)
        else:
            far_end.post("https://far.example/chat/completions", json=said, status=401)
            ask(app.test_client(), prompt=f"my key is {CALLERS_KEY}")
        shown = app.test_cli_runner().invoke(args=["llm", *command])
    assert shown.output
    assert "canary" not in shown.output
    watch()


# A start that fails


@pytest.mark.parametrize("field", SECRET, ids=lambda field: field.name)
@pytest.mark.parametrize("wrong", ["two words {}", "{}\x7f", "\xe4{}", "{}\nX: y"])
def test_a_wrong_key(monkeypatch: pytest.MonkeyPatch, field: dataclasses.Field[Any], wrong: str) -> None:
    """The line that ends the start names the variable, and not the value."""
    monkeypatch.setenv(field.name.upper(), wrong.format("canary-0123456789"))
    with pytest.raises(ConfigError, match=f"^{field.name.upper()}='its value' is not valid") as caught:
        Settings.load(None)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("field", WITH_PASSWORD, ids=lambda field: field.name)
@pytest.mark.parametrize("wrong", ["gopher://user:{}@h", "redis+x://:{}@h:1/0", "http://user:{}@h:99999x", "user:{}@"])
def test_a_wrong_address(monkeypatch: pytest.MonkeyPatch, field: dataclasses.Field[Any], wrong: str) -> None:
    """Nor the password of an address that is none."""
    monkeypatch.setenv(field.name.upper(), wrong.format("canary"))
    with pytest.raises(ConfigError, match=f"^{field.name.upper()}='its value' is not valid") as caught:
        Settings.load(None)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("line", ["export OPENAI_API_KEY=canary-1", "API_KEYS canary-1", "API KEYS=canary-1"])
def test_a_slip_in_the_file(tmp_path: Path, line: str) -> None:
    """A line that would do nothing is named without its value."""
    (tmp_path / ".env").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match="line 1") as caught:
        Settings.load(tmp_path / ".env")
    assert "canary" not in str(caught.value)
