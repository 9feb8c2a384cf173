"""Which pages of other sites may call (Fetch standard, section 3.3): none, unless CORS_ORIGINS has their origin."""

import re

import pytest
from asking import GENERATE, Serve
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from llm_api import Settings, create_app
from llm_api.rules import ApiKey

APP = "https://app.example.com"
PATHS = sorted(
    {re.sub(r"<.+?>", "x", rule.rule) for rule in create_app(Settings(llm_backend="stub")).url_map.iter_rules()}
)
KEYED = {"api_keys": (ApiKey("alice", "0" * 64),)}


def cors(answer: TestResponse) -> dict[str, str]:
    """Return the headers that a browser goes by, in short."""
    prefix = "access-control-"
    return {
        name.lower().removeprefix(prefix): value for name, value in answer.headers if name.lower().startswith(prefix)
    }


def preflight(
    client: FlaskClient, path: str, origin: str = APP, asked: str | None = "content-type,x-api-key"
) -> TestResponse:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return client.options(path, headers=headers | ({"Access-Control-Request-Headers": asked} if asked else {}))


@pytest.mark.parametrize("path", PATHS)
def test_off(make_client: Serve, path: str) -> None:
    """Without CORS_ORIGINS no answer has a word of it, a preflight's neither."""
    client = make_client()
    for answer in (client.get(path, headers={"Origin": APP}, buffered=True), preflight(client, path)):
        assert cors(answer) == {}
        assert "Vary" not in answer.headers


ALLOWED = "Access-Control-Allow-Origin"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((APP,), APP, APP),
        ((APP,), "HTTPS://App.Example.com", "HTTPS://App.Example.com"),
        (("https://a.example", APP), APP, APP),
        *(((APP,), origin, None) for origin in ("http://app.example.com", f"{APP}:8443", f"{APP}.evil.example")),
        *(((APP,), origin, None) for origin in ("https://evil.example", f"{APP}, https://evil.example")),
        *(((APP,), origin, None) for origin in ("null", "", None)),
        (("*",), APP, "*"),
        (("*",), "null", "*"),
        ((APP, "*"), "https://other.example", "*"),
    ],
)
def test_origins(make_client: Serve, origins: tuple[str, ...], origin: str | None, allowed: str | None) -> None:
    """An origin that is listed, in upper or lower case, is let in by name; * lets in all; nobody gets credentials."""
    headers = {} if origin is None else {"Origin": origin}
    answer = make_client(cors_origins=origins).get("/config", headers=headers)
    assert answer.status_code == 200
    assert answer.headers.get(ALLOWED) == allowed
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.vary
    assert set(cors(answer)) == ({"allow-origin", "expose-headers"} if allowed else set())


@pytest.mark.parametrize("text", [APP, " HTTPS://App.example.COM , http://localhost:3000"])
def test_as_a_user_writes_it(monkeypatch: pytest.MonkeyPatch, make_client: Serve, text: str) -> None:
    """The setting takes upper and lower case and blanks."""
    monkeypatch.setenv("CORS_ORIGINS", text)
    client = make_client(cors_origins=Settings.load(None).cors_origins)
    assert client.get("/health/live", headers={"Origin": APP}).headers[ALLOWED] == APP


@pytest.mark.parametrize("path", PATHS)
def test_preflight(make_client: Serve, path: str) -> None:
    """Every route answers it, with keys on too: the methods there are, and the headers that were asked for."""
    answer = preflight(make_client(cors_origins=(APP,), **KEYED), path)
    assert answer.status_code == 200
    assert cors(answer) == {
        "allow-origin": APP,
        "allow-methods": "GET, POST",
        "allow-headers": "content-type,x-api-key",
        "max-age": "600",
    }
    assert "Origin" in answer.vary


def test_preflight_of_another_site(make_client: Serve) -> None:
    """It is answered, and allows nothing."""
    answer = preflight(make_client(cors_origins=(APP,), **KEYED), "/generate", "https://evil.example")
    assert (answer.status_code, cors(answer)) == (200, {})
    assert "Origin" in answer.vary


def test_preflight_without_headers(make_client: Serve) -> None:
    """Where a browser asks for no header, none is allowed."""
    answer = preflight(make_client(cors_origins=("*",)), "/config", asked=None)
    assert (answer.headers[ALLOWED], answer.headers["Access-Control-Allow-Headers"]) == ("*", "")


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"max_tokens": "x"}])
def test_a_page_may_read_the_answer(make_client: Serve, path: str, fields: dict[str, object]) -> None:
    """Whole, streamed or an error: with the headers that say who answered and when to come again."""
    answer = make_client(cors_origins=(APP,)).post(
        path, json=GENERATE[path][0] | fields, headers={"Origin": APP}, buffered=True
    )
    assert answer.headers[ALLOWED] == APP
    readable = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert {name for name in dict(answer.headers) if name.startswith("X-LLM")} | {"X-Request-ID"} <= readable
    assert "Retry-After" in readable
    assert {
        f"x-ratelimit-{name}-{what}" for name in ("limit", "remaining", "reset") for what in ("requests", "tokens")
    } <= readable


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/config", 401),
        ("POST", "/generate", 401),
        ("GET", "/generate", 405),
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_a_page_may_read_errors(make_client: Serve, method: str, path: str, status: int) -> None:
    """It learns why it was refused, in place of a bare network error."""
    answer = make_client(cors_origins=(APP,), **KEYED).open(path, method=method, headers={"Origin": APP})
    assert (answer.status_code, answer.headers[ALLOWED]) == (status, APP)
    assert answer.headers.getlist("Vary") == ["Origin"]
