"""/health: truthful, cached, single-flight, free, and never hanging with a backend that hangs."""

import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from asking import Serve, ask
from fakes import Clock, Fake
from flask import Flask
from flask.testing import FlaskClient

from llm_api import LLMAPI
from llm_api.backends.base import Backend
from llm_api.errors import NotConfigured, ServerError, TimedOut, Unreachable
from llm_api.rules import BACKENDS


def health(client: FlaskClient) -> tuple[int, str, str | None]:
    answer = client.get("/health")
    body = answer.get_json()
    return answer.status_code, body["status"], body.get("reason")


@pytest.mark.parametrize("path", ["/health", "/health/live"])
def test_fields(make_client: Serve, path: str) -> None:
    """Exactly the three fields when healthy, and the time now in Unix seconds."""
    before = time.time()
    answer = make_client().get(path)
    body = answer.get_json()
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert before <= body.pop("timestamp") <= time.time()
    assert body == {"status": "healthy", "backend": "stub"}


DOWN, NO_KEY = Unreachable("it is down"), NotConfigured("no key")


@pytest.mark.parametrize(
    ("chain", "state"),
    [
        ([Fake("one")], (200, "healthy", None)),
        ([Fake("one"), Fake("two", trouble=DOWN)], (200, "healthy", None)),
        ([Fake("one", trouble=DOWN), Fake("two")], (200, "degraded", "one: it is down")),
        (
            [Fake("one", trouble=NotConfigured("no key")), Fake("two", trouble=DOWN), Fake("three")],
            (200, "degraded", "one: no key"),
        ),
        ([Fake("one", trouble=DOWN)], (503, "unhealthy", "one: it is down")),
        (
            [Fake("one", trouble=DOWN), Fake("two", trouble=NotConfigured("no key"))],
            (503, "unhealthy", "one: it is down; two: no key"),
        ),
        ([Fake("one", trouble=KeyError("name"))], (503, "unhealthy", "one: its check broke (KeyError)")),
    ],
)
def test_states(serve: Serve, chain: list[Backend], state: tuple[int, str, str | None]) -> None:
    """Healthy: the configured backend can serve; degraded: a fallback would; unhealthy: nobody, and why."""
    assert health(serve(*chain)) == state


@pytest.mark.parametrize("error", [RuntimeError("bug"), ValueError("bug"), AttributeError("bug"), OSError("bug")])
def test_a_check_with_a_bug_is_trouble(serve: Serve, error: Exception) -> None:
    """An exception nobody foresaw counts as a backend that can't serve, and does not end the probing."""
    status, state, reason = health(serve(Fake("one", trouble=error), Fake("two")))
    assert (status, state) == (200, "degraded")
    assert reason
    assert reason.startswith("one: ")
    assert "bug" not in reason


def test_a_check_that_begins_to_raise_ends_the_old_report(serve: Serve, clock: Clock) -> None:
    """What was healthy does not stay so for ever because the check breaks."""
    one = Fake("one")
    client = serve(one)
    assert health(client) == (200, "healthy", None)
    one.trouble = RuntimeError("bug")
    clock.now += 2.1
    assert health(client)[:2] == (503, "unhealthy")


def test_a_report_is_kept_for_two_seconds(serve: Serve, clock: Clock) -> None:
    """However often it is asked, the backend is probed once in two seconds, and then truthfully."""
    one = Fake("one", trouble=DOWN)
    client = serve(one)
    assert [health(client)[1] for _ in range(5)] == ["unhealthy"] * 5
    one.trouble = None
    clock.now += 2.0
    assert health(client)[1] == "unhealthy"
    assert len(one.checks) == 1
    clock.now += 0.1
    assert health(client)[1] == "healthy"
    assert len(one.checks) == 2


def test_a_probe_has_a_deadline(serve: Serve) -> None:
    """A check gets a deadline of its own, however long requests may take."""
    one = Fake("one")
    health(serve(one, request_timeout=3600.0))
    assert 0.5 < one.checks[0] <= 0.9


def test_one_probe_serves_many(serve: Serve) -> None:
    """Twenty clients at once cost one probe, and all of them get its result."""
    release = threading.Event()
    one = Fake("one", trouble=release)
    client = serve(one)
    states: list[str] = []
    threads = [
        threading.Thread(target=lambda: states.append(health(client.application.test_client())[1])) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    assert one.entered.wait(10)
    release.set()
    for thread in threads:
        thread.join(10)
    assert states == ["healthy"] * 20
    assert len(one.checks) == 1


def test_a_hanging_check_does_not_hang_health(serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an old report at hand /health answers at once, and does not start a second probe."""
    monkeypatch.setattr("llm_api.exchange.health.PATIENCE_SECONDS", 0.01)
    one = Fake("one")
    client = serve(one)
    assert health(client)[1] == "healthy"
    release = one.trouble = threading.Event()
    clock.now += 2.1
    started = time.monotonic()
    assert [health(client)[1] for _ in range(3)] == ["healthy"] * 3
    clock.now += 2.1
    assert health(client)[1] == "healthy"
    assert time.monotonic() - started < 2
    assert len(one.checks) == 2
    release.set()


def test_the_first_report_is_waited_for_but_not_for_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is any report, a check that hangs is unhealthy and not an endless request."""
    monkeypatch.setattr("llm_api.exchange.health.PATIENCE_SECONDS", 0.04)
    monkeypatch.setattr("llm_api.exchange.health.PROBE_SECONDS", -0.9)
    release = threading.Event()
    assert health(serve(Fake("one", trouble=release))) == (503, "unhealthy", "one: it has not answered yet")
    release.set()


@pytest.mark.parametrize(
    ("others", "state"),
    [
        ([Fake("two")], (200, "degraded", "one: it has not answered yet")),
        ([], (503, "unhealthy", "one: it has not answered yet")),
        ([Fake("two", trouble=DOWN)], (503, "unhealthy", "one: it has not answered yet; two: it is down")),
    ],
)
def test_a_begun_service_does_not_wait(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, others: list[Backend], state: tuple[int, str, str]
) -> None:
    """A worker asks at boot, so that its first report waits for nobody who hangs; what is not known is no success."""
    monkeypatch.setattr("llm_api.exchange.health.PATIENCE_SECONDS", 0.04)
    release = threading.Event()
    client = serve(Fake("one", trouble=release), *others)
    LLMAPI.begin(client.application)
    started = time.monotonic()
    assert health(client) == state
    assert time.monotonic() - started < 0.8  # that a probe takes; alone it is 0.05
    release.set()


def test_what_is_long_past_is_not_told(serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked for a minute: what was healthy then is not said of a backend that hangs now."""
    monkeypatch.setattr("llm_api.exchange.health.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("llm_api.exchange.health.PROBE_SECONDS", -0.9)
    one, two = Fake("one", trouble=DOWN), Fake("two")
    client = serve(one, two)
    assert health(client)[1] == "degraded"
    clock.now += 60
    release = two.trouble = threading.Event()
    assert health(client) == (503, "unhealthy", "one: it is down; two: it has not answered yet")
    release.set()


def test_an_open_breaker_is_trouble(serve: Serve, clock: Clock) -> None:
    """What requests found out counts, even if the check succeeds: the backend is not asked by requests now."""
    one = Fake("one", turns=[ServerError("m")] * 5)
    client = serve(one, Fake("two"))
    for _ in range(5):
        ask(client)
    assert health(client) == (200, "degraded", "one: circuit_open")
    assert one.checks == []


def test_health_never_generates(serve: Serve) -> None:
    """No tokens: `stream` is not called."""
    one = Fake("one")
    one.stream = None  # type: ignore[assignment, method-assign]
    assert health(serve(one))[1] == "healthy"


def test_live_does_no_io(serve: Serve, log_path: Any) -> None:
    """It says only that the process answers: no backend is asked, no log looked at."""
    one = Fake("one", trouble=DOWN)
    client = serve(one)
    log_path.parent.write_text("a file where the log's folder should be")
    ask(client)
    assert client.get("/health/live").status_code == 200
    assert one.checks == []


def test_a_log_that_cannot_be_written_is_unhealthy(make_client: Serve, log_path: Any) -> None:
    """Requests are refused while the log fails, so /health says it; one that gets through ends it."""
    client = make_client()
    log_path.parent.write_text("a file where the folder should be")
    assert ask(client).status_code == 503
    status, state, reason = health(client)
    assert (status, state) == (503, "unhealthy")
    assert reason
    assert reason.startswith("log.jsonl can't be written: ")
    log_path.parent.unlink()
    assert ask(client).status_code == 200
    assert health(client) == (200, "healthy", None)


def test_health_is_not_logged(make_client: Serve, log_path: Any) -> None:
    """The log is of requests for text; probes would drown them."""
    make_client().get("/health")
    assert log_path.read_bytes() == b""


REMEDY = "start it, or correct its settings"


def begin(app: Flask) -> None:
    """Do what the first worker does at boot, and wait for its end."""
    LLMAPI.of(app).health.begin(warns=True)
    LLMAPI.of(app).health.report()


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (Fake("one"), []),
        (Fake("one", models=DOWN), [f"one can't serve: it is down: {REMEDY}"]),
        (Fake("one", models=NO_KEY), [f"one can't serve: no key: {REMEDY}"]),
        (Fake("one", models=TimedOut("m")), [f"one can't serve: it does not answer in time: {REMEDY}"]),
        (Fake("one", model="m", models=["n"]), ["one does not list the model 'm': flask llm doctor names some of its"]),
    ],
)
@pytest.mark.usefixtures("clock")
def test_a_wrong_start_is_said(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture, backend: Backend, said: list[str]
) -> None:
    """One warning: who can't serve, why, and what to do; nothing of a backend that can."""
    begin(make_app(backend))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", w) for w in said]


@pytest.mark.usefixtures("clock")
def test_a_model_that_is_being_loaded_is_no_wrong_start(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture
) -> None:
    """What a service begins to load at boot is not ready yet, and not at fault."""

    class Loads(Fake):
        def begin(self) -> None:
            pass

    begin(make_app(Loads("one", models=DOWN)))
    assert caplog.records == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("clock")
def test_a_start_breaks_for_no_backend(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    """What a start asks of each backend of ours ends in one warning that names it, or in silence."""
    begin(make_app(llm_backend=backend, ollama_url="http://127.0.0.1:1", replay_file="none.jsonl"))
    said = [record.getMessage() for record in caplog.records]
    assert [words.split(" can't serve: ")[0] for words in said] == [backend] * len(said)
    is_there = {"stub"} | ({"huggingface"} if importlib.util.find_spec("xllamacpp") else set())
    assert len(said) == (backend not in is_there)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "default", "input": "x"}),
        ("/generate", {"prompt": "What is it?", "images": ["iVBORw0KGgo="]}),
    ],
)
def test_what_a_client_asks_for_is_no_illness(make_client: Serve, path: str, body: dict[str, Any]) -> None:
    """A request for what the backend does not serve is the client's own choice, and keeps nobody out."""
    client = make_client()
    assert client.post(path, json=body).status_code == 400
    assert health(client) == (200, "healthy", None)
