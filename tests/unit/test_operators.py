"""Who sees whose requests: a caller its own, OPERATORS or the host's `operator` all; without keys everybody."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import Serve
from flask import Flask, request
from flask.testing import FlaskClient
from records import line, write
from werkzeug.test import TestResponse

from llm_api import LLMAPI, Settings
from llm_api.errors import ConfigError, Unauthorized

KEYS = "alice:alices-key, bob:bobs-key-1, eve:eves-key-1, unnamed-key-1"
SECRET = "the-words-of-{}"
PATHS = [
    "/dashboard/data",
    "/dashboard/data?minutes=5",
    "/dashboard/data?text=words",
    "/dashboard/data?text=the-words-of-bob",
    "/dashboard/data?status=ok",
    "/dashboard/data?backend=openai",
    "/dashboard/data?caller=bob",
    "/dashboard/record/id-bob",
    "/dashboard/record/shared",
    "/dashboard/requests",
    "/dashboard/requests?caller=bob",
    "/dashboard/requests.csv",
    "/dashboard/requests.csv?caller=bob&text=words",
]


@pytest.fixture
def client(make_client: Serve, log_path: Path) -> Callable[..., FlaskClient]:
    """Return a maker of clients of one log, with a request of each caller, all of which used one id too."""
    lines = []
    for caller in ("alice", "bob", "eve", None):
        said = {"caller": caller, "prompt": SECRET.format(caller), "timestamp": time.time() - 10, "response": "r"}
        lines += [line(**said, request_id=name) for name in (f"id-{caller}", "shared")]
    write(log_path, lines)

    def make(**said: str) -> FlaskClient:
        settings = Settings.load(None, {name.upper(): value for name, value in said.items()})
        return make_client(api_keys=settings.api_keys, operators=settings.operators)

    return make


def get(client: FlaskClient, path: str, name: str | None) -> TestResponse:
    keys = {"alice": "alices-key", "bob": "bobs-key-1", "eve": "eves-key-1", "unnamed": "unnamed-key-1"}
    return client.get(path, headers={"Authorization": f"Bearer {keys[name]}"} if name else {})


@pytest.mark.parametrize("operators", ["", "alice"])
def test_a_caller_sees_its_own(client: Callable[..., FlaskClient], operators: str) -> None:
    """Whatever it asks for, by whichever id: nobody else's words, ids, names or numbers."""
    here = client(api_keys=KEYS, operators=operators)
    get(here, PATHS[0], "alice")  # what was read for one is not another's
    for path in PATHS:
        answer = get(here, path, "eve")
        assert answer.status_code == 200
        others = [word.format(name) for name in ("alice", "bob", "None") for word in (SECRET, "id-{}", '"{}"')]
        assert [word for word in others if word in answer.text] == []
    data = get(here, PATHS[0], "eve").json
    assert (data["only_own"], data["stats"]["total"]["requests"]) == (True, 2)
    assert sum(slot["requests"] for slot in data["stats"]["over_time"]) == 2
    assert {row["request_id"] for row in data["latest"] + data["slowest"]} == {"id-eve", "shared"}
    assert [record["caller"] for record in get(here, "/dashboard/record/shared", "eve").json["records"]] == ["eve"]
    assert get(here, "/dashboard/record/id-bob", "eve").json == {"records": []}
    assert get(here, PATHS[0], "unnamed").json["stats"]["total"]["requests"] == 0
    assert all(get(here, path, None).status_code == 401 for path in PATHS)


def test_an_operator_sees_all(client: Callable[..., FlaskClient]) -> None:
    """Of callers without a name too; there may be several of them, and a key may go by its hash."""
    here = client(api_keys=KEYS, operators="bob, alice")
    for name in ("alice", "bob"):
        data = get(here, "/dashboard/data", name).json
        assert (data["only_own"], data["stats"]["total"]["requests"]) == (False, 8)
        assert len(get(here, "/dashboard/record/shared", name).json["records"]) == 4


def test_metrics_and_settings_are_the_operators(client: Callable[..., FlaskClient]) -> None:
    """With operators they are theirs alone; without, any key's; without keys, everybody's."""
    asked = [("/metrics", name) for name in ("alice", "bob")] + [("/config", name) for name in ("alice", "bob")]
    said = [get(client(api_keys=KEYS, operators="alice"), path, name).status_code for path, name in asked]
    assert said == [200, 403, 200, 403]
    refused = get(client(api_keys=KEYS, operators="alice"), "/metrics", "bob").json["error"]
    assert (refused["code"], "OPERATORS" in refused["message"]) == ("operators_only", True)
    assert [get(client(api_keys=KEYS), path, name).status_code for path, name in asked] == [200] * 4
    assert [client().get(path).status_code for path in ("/metrics", "/config")] == [200, 200]


@pytest.mark.parametrize("operators", ["", "alice"])
def test_without_keys_all_is_everybodys(client: Callable[..., FlaskClient], operators: str) -> None:
    """As before: nobody is told apart."""
    here = client(operators=operators)
    data = here.get("/dashboard/data").json
    assert (data["only_own"], data["stats"]["total"]["requests"]) == (False, 8)
    assert len(here.get("/dashboard/record/shared").json["records"]) == 4
    assert [here.get(path).status_code for path in ("/metrics", "/config")] == [200, 200]


def test_an_operator_without_a_key_ends_the_start() -> None:
    """A name that is written wrong would leave nobody who sees all."""
    words = r"^OPERATORS has alise, carol, but API_KEYS has no key of that name$"
    with pytest.raises(ConfigError, match=words):
        Settings.load(None, {"API_KEYS": KEYS, "OPERATORS": "carol,alise,bob"})


# --- in a host app


@pytest.fixture
def host(log_path: Path, client: Any) -> Callable[..., FlaskClient]:
    """Return a maker of hosts whose users say in a header who they are; the log is that of `client`."""

    def make(**said: Any) -> FlaskClient:
        app = Flask("host")
        LLMAPI(app, "/llm", **{"llm_backend": "stub", "llm_fallback": "none", "log_file": log_path} | said)
        return app.test_client()

    return make


def who_asks() -> str | None:
    if "X-User" not in request.headers:
        raise Unauthorized("log in first")
    return request.headers["X-User"] or None


def as_user(client: FlaskClient, path: str, name: str) -> TestResponse:
    return client.get(f"/llm{path}", headers={"X-User": name})


def test_a_hosts_callers(host: Callable[..., FlaskClient]) -> None:
    """Each sees its own, one without a name nothing; whom `operator` is true for sees all, and the numbers too."""
    plain, with_operator = host(caller=who_asks), host(caller=who_asks, operator=lambda: who_asks() == "alice")
    for here in (plain, with_operator):
        for path in PATHS:
            assert "bob" not in as_user(here, path, "eve").text
        for name, requests in {"eve": 2, "": 0, "None": 0}.items():
            assert as_user(here, "/dashboard/data", name).json["stats"]["total"]["requests"] == requests
        assert here.get("/llm/dashboard/data").status_code == 401
    assert as_user(plain, "/dashboard/data", "alice").json["stats"]["total"]["requests"] == 2
    assert as_user(with_operator, "/dashboard/data", "alice").json["stats"]["total"]["requests"] == 8
    for path in ("/metrics", "/config"):
        assert [as_user(plain, path, name).status_code for name in ("alice", "eve")] == [200, 200]
        assert [as_user(with_operator, path, name).status_code for name in ("alice", "eve")] == [200, 403]


def test_a_host_with_an_operator_only(host: Callable[..., FlaskClient]) -> None:
    """Where callers have no names, only the operator sees what they asked."""
    here = host(operator=lambda: request.headers.get("X-User") == "alice")
    assert as_user(here, "/dashboard/data", "alice").json["stats"]["total"]["requests"] == 8
    assert as_user(here, "/dashboard/data", "eve").json["stats"]["total"]["requests"] == 0
    assert as_user(here, "/config", "eve").status_code == 403


def test_a_hosts_user_of_an_operators_name(host: Callable[..., FlaskClient]) -> None:
    """OPERATORS names keys: a user may be called as it likes."""
    here = host(caller=who_asks, api_keys=KEYS, operators="alice")
    for key, requests in {"alices-key": 8, "eves-key-1": 2}.items():
        said = {"X-User": "alice", "Authorization": f"Bearer {key}"}
        assert here.get("/llm/dashboard/data", headers=said).json["stats"]["total"]["requests"] == requests


def test_operators_of_no_keys_in_a_host(host: Callable[..., FlaskClient]) -> None:
    """They would be nobody, and the numbers shown to none: the start says what to write."""
    with pytest.raises(ConfigError, match=r"^OPERATORS are names of API_KEYS, .* say operator=$"):
        host(caller=who_asks, operators="alice")


def test_an_operator_hook_that_breaks_shows_nothing(host: Callable[..., FlaskClient]) -> None:
    """An error is no permission."""

    def broken() -> bool:
        raise RuntimeError("canary")

    for path in ("/dashboard/data", "/dashboard/record/shared", "/metrics", "/config"):
        answer = as_user(host(caller=who_asks, operator=broken), path, "alice")
        assert (answer.status_code, "canary" in answer.text) == (500, False)


# --- names of the service


def test_a_hosts_names(host: Callable[..., FlaskClient]) -> None:
    """Without keys ours are asked for; a host's own TRUSTED_HOSTS, or its callers, come before."""
    there = {"Host": "app.example.com"}
    assert host().get("/llm/config", headers=there).status_code == 400
    assert host(allowed_hosts="app.example.com").get("/llm/config", headers=there).status_code == 200
    assert host(caller=who_asks).get("/llm/config", headers=there | {"X-User": "eve"}).status_code == 200
    for trusted, status in ((["app.example.com"], 200), ([".example.com"], 200), (["other.example.com"], 400)):
        here = host(allowed_hosts="nothing.example.com")
        here.application.config["TRUSTED_HOSTS"] = trusted
        assert here.get("/llm/config", headers=there).status_code == status
        assert here.get("/llm/config").status_code == 400  # it does not name localhost


# --- caches


@pytest.mark.parametrize(
    "path",
    [
        *PATHS,
        "/config",
        "/metrics",
        "/health",
        "/v1/models",
        "/v1/models/nobody",
        "/openapi.json",
        "/nowhere",
        "/generate",
    ],
)
def test_no_cache_keeps_what_the_log_has(make_client: Serve, path: str) -> None:
    """Nor takes any browser JSON for something else; errors too."""
    for here in (make_client(), make_client(log_file="-")):
        headers = here.get(path).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    answer = make_client().post("/generate", json={"prompt": "x"})
    assert (answer.headers["Cache-Control"], json.loads(answer.text).keys()) == ("no-store", {"response"})


def test_the_name_that_is_bound_needs_no_entry(make_client: Serve) -> None:
    """Who binds a name calls the service by it; an address that is bound is no name."""
    client = make_client(bind="llm-box.lan:8000")
    assert client.get("/config", headers={"Host": "LLM-box.lan:8000"}).status_code == 200
    assert client.get("/config", headers={"Host": "other.lan:8000"}).status_code == 400
    for bind, host in (("unix:/run/x", "unix"), ("0.0.0.0:1", "0.0.0.0")):
        assert make_client(bind=bind).get("/config", headers={"Host": host}).status_code == 400
    assert make_client(bind="0.0.0.0:1").get("/config", headers={"Host": "0.0.0.0"}).status_code == 400
