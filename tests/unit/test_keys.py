"""Who may ask: every route but the open ones wants a key, no key is told to anybody, and whose address counts."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from asking import GENERATE, Log, Serve
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from llm_api import LLMAPI, Settings, create_app
from llm_api.errors import ConfigError

KEY = "canary-Key_0123456789"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
KEYED = {"Authorization": f"Bearer {KEY}"}
OPEN = {"/", "/dashboard", "/health", "/health/live", "/docs", "/static/x"}
# A new route is in the table by itself; x is no file.
ROUTES = {
    re.sub(r"<.+?>", "x", rule.rule): sorted((rule.methods or set()) - {"OPTIONS"})
    for rule in create_app(Settings(llm_backend="stub", llm_fallback=())).url_map.iter_rules()
}


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch, make_client: Serve) -> Serve:
    """Return a maker of clients whose settings are given as a user writes them, and as fields where named so."""

    def make(api_keys: str = "", trusted_proxies: str = "", **settings: Any) -> FlaskClient:
        monkeypatch.setenv("API_KEYS", api_keys)
        monkeypatch.setenv("TRUSTED_PROXIES", trusted_proxies)
        said = Settings.load(None)
        return make_client(**{"api_keys": said.api_keys, "trusted_proxies": said.trusted_proxies} | settings)

    return make


def check_refused(answer: TestResponse, *, has_body: bool = True) -> None:
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "x-should-retry" not in answer.headers
    if has_body and isinstance(answer.json["error"], str):  # Ollama's
        assert answer.json.keys() == {"error"}
    elif has_body:
        error = dict(answer.json["error"])
        assert error.pop("message")
        assert error.pop("type") in ("invalid_request_error", "authentication_error")
        assert error == {"code": "invalid_api_key", "param": None}
        assert answer.json["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, methods in ROUTES.items() for method in methods])
def test_every_route_wants_a_key(serve_with: Serve, path: str, method: str) -> None:
    """Without a key there is a 401 in our shape everywhere but on the open routes; with one nowhere."""
    client = serve_with(KEY)
    body = GENERATE.get(path.removesuffix("/count_tokens"), (None, ""))[0]
    answer = client.open(path, method=method, json=body, buffered=True)
    if path in OPEN:
        assert answer.status_code in (200, 404)
    else:
        check_refused(answer, has_body=method != "HEAD")
    # 501: what is Ollama's alone; without a body 415, or 400 at its routes, which take any type
    let_in = client.open(path, method=method, json=body, headers=KEYED, buffered=True)
    assert let_in.status_code in (200, 404, 501, 400 if path.startswith("/api/") else 415)


@pytest.mark.parametrize("path", ROUTES)
def test_a_preflight_needs_no_key(serve_with: Serve, path: str) -> None:
    """A browser sends none with it (Fetch standard, section 4.8)."""
    assert serve_with(KEY).options(path).status_code == 200


def test_the_open_routes_exist() -> None:
    """No name is left over in the list of what is open."""
    assert OPEN - ROUTES.keys() == set()


@pytest.mark.parametrize("path", GENERATE)
def test_without_keys_everybody_may_ask(make_client: Serve, log_lines: Log, path: str) -> None:
    """No API_KEYS: no key is asked for, and one that is sent makes no caller."""
    answer = make_client().post(path, json=GENERATE[path][0], headers=KEYED)
    assert answer.status_code == 200
    assert log_lines()[0]["caller"] is None


@pytest.mark.parametrize("entry", [f"alice:{KEY}", f"alice:sha256:{HASH}", f"alice:sha256:{HASH.upper()}"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": f"BEARER   {KEY} "},
        {"x-api-key": KEY},
        {"api-key": KEY},
        {"Api-Key": KEY, "x-api-key": ""},
        {"X-API-Key": KEY, "Authorization": "Basic dTpw"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", GENERATE)
def test_a_known_key(
    serve_with: Serve, log_lines: Log, log_path: Any, entry: str, headers: dict[str, str], path: str
) -> None:
    """Plain or hashed, as a bearer, x-api-key or (Azure's clients) api-key: its name is in the log, itself is not."""
    answer = serve_with(f"bob:another-key-1,{entry}").post(path, json=GENERATE[path][0], headers=headers)
    assert answer.status_code == 200
    assert [line["caller"] for line in log_lines()] == ["alice"]
    assert KEY not in log_path.read_text() + answer.text + str(answer.headers)


def test_a_key_without_a_name(serve_with: Serve, log_lines: Log) -> None:
    """It is called by the beginning of its hash."""
    assert serve_with(KEY).post("/generate", json={"prompt": "x"}, headers=KEYED).status_code == 200
    assert log_lines()[0]["caller"] == f"key-{HASH[:8]}"


def test_each_of_several_keys(serve_with: Serve, log_lines: Log) -> None:
    """Each key has its own name, wherever it stands in the list."""
    client = serve_with("a:key-of-a-1234, b:key-of-b-1234 ,c:key-of-c-1234")
    for name in "bca":
        client.post("/generate", json={"prompt": "x"}, headers={"x-api-key": f"key-of-{name}-1234"})
    assert [line["caller"] for line in log_lines()] == ["b", "c", "a"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTP_AUTHORIZATION": ""},
        {"HTTP_AUTHORIZATION": "Bearer"},
        {"HTTP_AUTHORIZATION": "Bearer "},
        {"HTTP_AUTHORIZATION": "Basic dTpw"},
        {"HTTP_AUTHORIZATION": KEY},
        {"HTTP_AUTHORIZATION": f"Token {KEY}"},
        {"HTTP_AUTHORIZATION": f"Bearer{KEY}"},
        *({"HTTP_AUTHORIZATION": f"Bearer {key}"} for key in (KEY[:-1], KEY + "x", KEY.upper(), f"alice:{KEY}")),
        *({"HTTP_AUTHORIZATION": f"Bearer {key}"} for key in (HASH, f"sha256:{HASH}", f"{KEY}\x00", f"{KEY} {KEY}")),
        *({"HTTP_AUTHORIZATION": f"Bearer {key}"} for key in ("\xe4\xf6\xfc", "\xff\xfe", "\x00", "x" * 100_000)),
        {"HTTP_X_API_KEY": ""},
        {"HTTP_X_API_KEY": "\xe2\x82\xac"},
        {"HTTP_X_API_KEY": f"Bearer {KEY}"},
        {"HTTP_X_API_KEY": "\x00" * 1000},
        {"HTTP_X_API_KEY": KEY, "HTTP_AUTHORIZATION": "Bearer wrong"},
    ],
    ids=lambda environ: ascii(environ)[:60],
)
@pytest.mark.parametrize("path", ["/config", *GENERATE])
def test_a_wrong_key(serve_with: Serve, environ: dict[str, str], path: str) -> None:
    """Whatever is sent in place of the key, it is a 401, and what was sent is not repeated."""
    client = serve_with(f"alice:{KEY}")
    body = GENERATE.get(path.removesuffix("/count_tokens"), (None, ""))[0]
    answer = client.open(path, method="POST" if body else "GET", json=body, environ_overrides=environ)
    check_refused(answer)
    assert KEY not in answer.text


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("body", [None, "{broken", '{"prompt": "canary-prompt", "model": "m"}'])
def test_the_line_of_a_refused_request(
    serve_with: Serve, log_lines: Log, log_path: Any, path: str, body: str | None
) -> None:
    """It says that and why the request was refused; the body was not even read."""
    check_refused(serve_with(KEY).post(path, data=body, headers={"x-api-key": "canary-of-another"}))
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 401, "invalid_api_key")
    assert (line["operation"], line["client_ip"], line["caller"]) == (GENERATE[path][1], "127.0.0.1", None)
    assert (line["prompt"], line["response"], line["backend"], line["attempts"]) == (None, None, None, [])
    assert "canary" not in log_path.read_text()


def test_keys_are_shown_nowhere(serve_with: Serve, log_path: Any) -> None:
    """Not in /config, not where a client says it in its prompt, not in what Python shows of the settings."""
    client = serve_with(f"alice:{KEY}")
    shown = [client.get(path, headers=KEYED).text for path in ("/config", "/metrics", "/openapi.json", "/v1/models")]
    client.post("/generate", json={"prompt": f"my key is {KEY}"}, headers=KEYED)
    settings = LLMAPI.of(client.application).settings
    assert "my key is [redacted]" in log_path.read_text()
    assert KEY not in log_path.read_text() + "".join(shown) + repr(settings) + repr(settings.api_keys)
    assert "api_keys" not in client.get("/config", headers=KEYED).json


@pytest.mark.parametrize(
    "text",
    [
        *("canary", "a:canary", "canary:", "canary 12345678", "canary-\xe4\xf6\xfc-12345678", "canary-12345678,"),
        *("a:canary-1234,a:canary-5678", "canary-1234,canary-1234", ",canary-12345678", "canary-1\x7f2345678"),
        *("sha256:canary", "a:sha256:canary", f"a:sha256:{HASH[:-1]}", f"a:sha256:{HASH}0", "sha256:canary-0123456789"),
    ],
)
def test_a_wrong_entry_is_not_quoted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A short key, a double name, a broken hash end the start with words that say what is allowed, and no key."""
    monkeypatch.setenv("API_KEYS", text)
    with pytest.raises(ConfigError, match=r"^API_KEYS='its value' is not valid: it must be KEY, NAME:KEY or") as caught:
        Settings.load(None)
    assert not re.search(f"canary|{HASH[:8]}", str(caught.value))


# flask llm keys new


def new_key(app: Flask, name: str) -> tuple[str, str]:
    """Return the key and the entry that the command prints."""
    shown = app.test_cli_runner().invoke(args=["llm", "keys", "new", name])
    assert shown.exit_code == 0, shown.output
    key, entry = (line.split(":  ")[1] for line in shown.output.splitlines())
    return key, entry


@pytest.mark.parametrize("name", ["alice", "a", "me@example.com", "team_1.app-2", "\xe4nne", "x" * 64])
def test_a_new_key_lets_in(make_app: Callable[..., Flask], serve_with: Serve, log_lines: Log, name: str) -> None:
    """The entry that the command prints is a valid setting without the key, and lets the key in under its name."""
    key, entry = new_key(make_app(), name)
    assert key not in entry
    answer = serve_with(entry).post("/generate", json={"prompt": "x"}, headers={"x-api-key": key})
    assert answer.status_code == 200
    assert log_lines()[-1]["caller"] == name


def test_each_new_key_is_another(make_app: Callable[..., Flask]) -> None:
    """Two keys of one name are not the same, and neither can be guessed by its length."""
    one, two = (new_key(make_app(), "alice")[0] for _ in range(2))
    assert one != two
    assert min(len(one), len(two)) >= 43


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "a/b", "a\n", "x" * 65, "sha256"])
def test_a_bad_name(make_app: Callable[..., Flask], name: str) -> None:
    """What could not stand in API_KEYS is refused, and no key is made."""
    shown = make_app().test_cli_runner().invoke(args=["llm", "keys", "new", name])
    assert shown.exit_code == 2
    assert "llm-" not in shown.output


# Whose address it is


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "address"),
    [
        ("", "1.2.3.4", ["9.9.9.9"], "1.2.3.4"),
        ("", "", ["9.9.9.9"], None),
        ("10.0.0.1", "10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", "10.0.0.1", ["6.6.6.6, 9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", "10.0.0.1", ["10.0.0.1,6.6.6.6 ,  9.9.9.9 "], "9.9.9.9"),
        ("10.0.0.1", "10.0.0.1", ["9.9.9.9,"], "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2", ["9.9.9.9"], "10.0.0.2"),
        ("10.0.0.1", "10.0.0.2", ["9.9.9.9, 10.0.0.1"], "10.0.0.2"),
        ("10.0.0.0/8", "10.0.0.1", ["6.6.6.6, 9.9.9.9, 10.1.1.1"], "9.9.9.9"),
        ("10.0.0.0/8", "10.0.0.1", ["6.6.6.6", "9.9.9.9", "10.1.1.1"], "9.9.9.9"),
        ("10.0.0.0/8", "10.0.0.1", ["6.6.6.6, 9.9.9.9", "10.1.1.1, 10.2.2.2"], "9.9.9.9"),
        ("10.0.0.0/8", "10.0.0.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.0.0.0/8, 127.0.0.1", "127.0.0.1", ["9.9.9.9, 10.1.1.1"], "9.9.9.9"),
        ("0.0.0.0/0", "1.1.1.1", ["6.6.6.6, 9.9.9.9"], "6.6.6.6"),
        ("::1", "::1", ["2001:db8::7"], "2001:db8::7"),
        ("2001:db8::/32", "2001:DB8:1::1", ["6.6.6.6, 2a00::1, 2001:db8:2::1"], "2a00::1"),
        ("2001:db8::/32,10.0.0.0/8", "10.0.0.1", ["9.9.9.9, 2001:db8::1"], "9.9.9.9"),
        ("2001:db8::/32", "10.0.0.1", ["9.9.9.9"], "10.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.0/8", "::ffff:11.0.0.1", ["9.9.9.9"], "::ffff:11.0.0.1"),
        ("unix", "", ["9.9.9.9"], "9.9.9.9"),
        ("unix", "", [], None),
        ("unix", "", ["6.6.6.6, 9.9.9.9"], "9.9.9.9"),
        ("unix, 10.0.0.0/8", "", ["6.6.6.6, 9.9.9.9, 10.0.0.1"], "9.9.9.9"),
        ("unix", "127.0.0.1", ["9.9.9.9"], "127.0.0.1"),
        ("10.0.0.1", "", ["9.9.9.9"], None),
        ("10.0.0.1", "10.0.0.1", ["garbage"], "garbage"),
        ("10.0.0.1", "10.0.0.1", ["9.9.9.9, garbage"], "garbage"),
        ("10.0.0.1", "garbage", ["9.9.9.9"], "garbage"),
    ],
)
def test_client_address(
    serve_with: Serve, log_lines: Log, proxies: str, peer: str, forwarded: list[str], address: str | None
) -> None:
    """It is the last one that no trusted proxy has; what a client itself put before it does not count."""
    client = serve_with(trusted_proxies=proxies)
    headers = [("X-Forwarded-For", said) for said in forwarded]
    answer = client.post("/generate", json={"prompt": "x"}, headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert answer.status_code == 200
    assert log_lines()[0]["client_ip"] == address
