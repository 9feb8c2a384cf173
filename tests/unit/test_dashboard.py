"""The pages and their data: open shells, data behind the key, the same numbers as the command, bounded reading."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asking import Serve
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from records import Run, answered, line, write

from llm_api import Settings
from llm_api.log import recent as dashboard
from llm_api.log import search
from llm_api.web import pages

NOW = time.time()
SECRET = "the words nobody may see"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hour of the log ends when a test begins; a busy machine may take its time to count."""
    monkeypatch.setattr(dashboard, "COUNT_SECONDS", 60)
    monkeypatch.setattr(sys.modules[__name__], "NOW", time.time())


def ago(seconds: float, number: int = 0, **changes: Any) -> bytes:
    return line(**{"timestamp": NOW - seconds, "request_id": f"id-{number}"} | changes)


def data(client: FlaskClient, **query: Any) -> dict[str, Any]:
    answer = client.get("/dashboard/data", query_string=query)
    assert answer.status_code == 200
    return answer.get_json()


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["request_id"] for row in rows]


# --- who may


@pytest.mark.parametrize("path", ["/dashboard/data", "/dashboard/record/id-1"])
def test_data_needs_the_key(keyed: FlaskClient, path: str) -> None:
    """Where keys are on, pages come without one, what the log has does not; another site's page gets it never."""
    key = {"Authorization": f"Bearer {SECRET.replace(' ', '-')}"}
    assert keyed.get(path).status_code == 401
    assert keyed.get(path, headers=key).status_code == 200
    assert keyed.get(path, headers=key | {"Origin": "https://elsewhere.example"}).status_code == 403


@pytest.fixture
def keyed(make_client: Serve) -> FlaskClient:

    keys = Settings.load(None, {"API_KEYS": f"tests:{SECRET.replace(' ', '-')}"}, {}).api_keys
    return make_client(api_keys=keys, cors_origins=("*",))


# --- numbers


def test_numbers_are_those_of_the_command(make_app: Callable[..., Flask], log_path: Path) -> None:
    """For the same time the data has the same numbers as `flask llm logs stats --json`, over rotated files too."""
    kinds: list[dict[str, Any]] = [
        {},
        {"status": "error", "attempts": [], "backend": None, "http_status": 422},
        {"backend": "stub", "model": "stub", "fallback": True, "fallback_reason": "timeout"},
        {"status": "aborted", "time_to_first_chunk_ms": None},
    ]
    lines = [ago(3600 - n, n, duration_ms=100.0 + n, **kinds[n % 4]) for n in range(3590)]
    write(log_path.with_name("log.jsonl.1"), lines[:2000])
    write(log_path, [*lines[2000:], b'{"timestamp": 1, "torn'])
    app = make_app()
    shown = data(app.test_client(), minutes=30)
    result: Result = app.test_cli_runner().invoke(
        args=["llm", "logs", "stats", "--json", "--since", iso(shown["since"]), "--until", iso(shown["until"])]
    )
    told = json.loads(answered(result))
    assert shown["stats"].keys() == told.keys()
    assert {name: shown["stats"][name] for name in told if name != "over_time"} == {
        name: told[name] for name in told if name != "over_time"
    }
    assert sum(slot["requests"] for slot in shown["stats"]["over_time"]) == told["total"]["requests"]
    assert 1700 < told["total"]["requests"] <= 1860
    assert told["fallback_reasons"] == {"timeout": told["models"]["stub/stub"]["requests"]}
    assert told["total"]["first_chunk_p50_ms"] == pytest.approx(20, rel=0.01)
    assert shown["complete_since"] is None


def iso(seconds: float) -> str:

    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [3, 2, 1, 0]),
        ({"minutes": 3}, [3, 2]),
        ({"minutes": 1}, [3]),
        ({"model": "far-model-2"}, [1]),
        ({"operation": "chat"}, [0]),
        ({"error": "server_error"}, [1]),
        ({"caller": "alice"}, [2]),
        ({"caller": "alice", "operation": "chat"}, []),
        ({"backend": "stub"}, [2]),
        ({"backend": "ollama"}, [2]),
        ({"status": "error"}, [1]),
        ({"status": "502"}, [1]),
        ({"status": "fallback"}, [2]),
        ({"reason": "timeout"}, [2]),
        ({"reason": "unsupported"}, []),
        ({"text": "NEEDLE"}, [0]),
        ({"text": "needle", "status": "error"}, []),
        ({"minutes": "nonsense"}, [3, 2, 1, 0]),
        ({"minutes": -5}, [3]),
        ({"minutes": 1400}, [3, 2, 1, 0]),
        ({"minutes": 10**30}, [4, 3, 2, 1, 0]),
    ],
)
def test_filters(make_client: Serve, log_path: Path, query: dict[str, Any], expected: list[int]) -> None:
    """Time, backend (asked or answering), status, text and the rest choose; nonsense means the last hour."""
    fallen = {"requested_backend": "ollama", "backend": "stub", "fallback": True, "fallback_reason": "timeout"}
    old = ago(200_000, 4)
    failed = {"status": "error", "http_status": 502, "model": "far-model-2", "error": {"code": "server_error"}}
    chat = ago(300, 0, response="a needle", operation="chat")
    write(log_path, [old, chat, ago(260, 1, **failed), ago(121, 2, caller="alice", **fallen), ago(0, 3)])
    shown = data(make_client(), **query)
    assert sorted(ids(shown["latest"])) == sorted(f"id-{n}" for n in expected)
    assert shown["stats"]["total"]["requests"] == len(expected)


@pytest.mark.parametrize("path", ["/dashboard/data", "/dashboard/requests", "/dashboard/requests.csv"])
@pytest.mark.parametrize("said", ["1" + 400 * "0", "-1" + 400 * "0", "-1", "0"], ids=["huge", "long ago", "-1", "0"])
def test_any_time_can_be_asked_for(make_client: Serve, log_path: Path, path: str, said: str) -> None:
    """What is no time of a log is the nearest that is."""
    write(log_path, [ago(90)])
    client = make_client()
    for name in ("since", "until", "minutes"):
        assert client.get(path, query_string={name: said}).status_code == 200, name


@pytest.mark.parametrize("who", [{}, {"caller": "tests"}], ids=["all", "a caller's"])
def test_a_time_of_its_own(make_client: Serve, log_path: Path, who: dict[str, str]) -> None:
    """From `since` up to `until` exactly those are counted and shown that began then, be it minutes or days."""
    write(log_path, [ago(90 * 60 - n * 45, n, caller="tests") for n in range(120)])
    client, minute = make_client(), int(NOW // 60 * 60)
    for since, until in (
        (minute - 1800, minute - 1680),
        (minute - 4200, minute - 300),
        (minute - 86_400, minute - 2700),
    ):
        found = data(client, since=since, until=until, **who)
        wanted = [f"id-{n}" for n in range(120) if found["since"] <= NOW - (90 * 60 - n * 45) < until]
        assert (found["until"], found["stats"]["total"]["requests"]) == (until, len(wanted))
        assert 0 <= since - found["since"] < found["stretch_seconds"]
        assert ids(found["latest"]) == wanted[::-1][:50]
        assert len(set(ids(found["slowest"]))) == min(20, len(wanted))
    later = client.get("/dashboard/requests", query_string={"since": minute - 86_400, "until": minute - 2700, **who})
    assert later.get_json()["requests"][0]["request_id"] == wanted[-1]
    odd = data(client, since=minute - 1800, until=minute - 1681, **who)
    assert odd["until"] == minute - 1680
    for nonsense in ("x", "-5", "0", str(10**30)):
        data(client, since=nonsense, until=nonsense, **who)


def test_latest_and_slowest(make_client: Serve, log_path: Path) -> None:
    """The fifty latest come latest first, the twenty slowest slowest first."""
    write(log_path, [ago(500 - n, n, duration_ms=float(n * 37 % 200)) for n in range(200)])
    shown = data(make_client())
    assert ids(shown["latest"]) == [f"id-{n}" for n in range(199, 149, -1)]
    assert [row["duration_ms"] for row in shown["slowest"]] == [float(n) for n in range(199, 179, -1)]


def test_requests_of_several_kinds_in_one_minute(make_client: Serve, log_path: Path) -> None:
    """However their lines are mixed, each is listed once."""
    kinds = ["one", "two", "two", "three", "one", "three", "four"]
    write(log_path, [ago(0, number, model=kind) for number, kind in enumerate(kinds)])
    assert ids(data(make_client())["latest"]) == [f"id-{number}" for number in range(6, -1, -1)]
    assert ids(data(make_client(), model="one")["latest"]) == ["id-4", "id-0"]


def test_a_clock_that_went_back_hides_nothing(make_client: Serve, log_path: Path) -> None:
    """A request is of the time that its line says, wherever that stands; what the clock says is to come, is of now."""
    write(log_path, [ago(seconds, number) for number, seconds in enumerate([100_000, 40, 90_000, -7200, 80_000, 10])])
    found = data(make_client())
    assert ids(found["latest"]) == ["id-5", "id-3", "id-1"]
    assert ids(data(make_client(), minutes=10_000)["latest"]) == [f"id-{number}" for number in (5, 4, 3, 2, 1, 0)]
    slots = found["stats"]["over_time"]
    assert sum(slot["requests"] for slot in slots) == found["stats"]["total"]["requests"] == 3
    assert slots[0]["timestamp"] == found["since"] < slots[-1]["timestamp"] < found["until"]


def test_a_file_that_may_not_be_read_is_named(
    make_client: Serve, logs: Run, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """logrotate may give a file away: that is said by the dashboard and the commands, and no number is made up."""
    write(log_path.with_name("log.jsonl.1"), [ago(20, 1)])
    write(log_path, [ago(10, 2)])
    real = Path.open

    def open_unless_given_away(path: Path, *mode: Any, **more: Any) -> Any:  # root may read all
        if path.name == "log.jsonl.1":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *mode, **more)

    monkeypatch.setattr(Path, "open", open_unless_given_away)
    refused = make_client().get("/dashboard/data")
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "log_unavailable")
    assert "log.jsonl.1" in refused.json["error"]["message"]
    assert "log.jsonl.1" in answered(logs("stats"), 1)


def test_compressed_files_are_counted(make_client: Serve, log_path: Path) -> None:
    """But can't be read from the end, so single requests of theirs are not listed, which is said."""
    write(log_path.with_name("log.jsonl.1.gz"), [ago(900, 0), ago(890, 1)])
    write(log_path, [ago(600, 2)])
    shown = data(make_client())
    assert (shown["stats"]["total"]["requests"], shown["complete_since"]) == (3, None)
    assert (ids(shown["latest"]), ids(shown["slowest"]), shown["rows_left_out"]) == (["id-2"], ["id-2"], True)
    assert not data(make_client(), minutes=5)["rows_left_out"]
    searched = data(make_client(), text="prompt")
    assert (searched["stats"]["total"]["requests"], searched["complete_since"]) == (1, pytest.approx(NOW - 599.9))


def test_without_a_log(make_client: Serve) -> None:
    """Before the first request there are zeros, and no record."""
    client = make_client()
    assert data(client)["stats"]["total"]["requests"] == 0
    assert client.get("/dashboard/record/x").get_json() == {"records": []}


def test_too_many_questions_at_once_are_refused(make_client: Serve) -> None:
    """While the log can't be read, on a disk that hangs say, viewers get 503 and don't take all threads."""
    client = make_client()
    with ExitStack() as stack:
        for _ in range(dashboard.READERS):
            stack.enter_context(client.application.extensions["llm_api"]["llm_api"].dashboard._readers)
        assert client.get("/dashboard/data").status_code == 503
    assert client.get("/dashboard/data").status_code == 200


def test_nobody_waits_for_an_abandoned_question(
    make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is typed letter by letter: when the browser closes the connection, the log is read no further."""
    write(log_path, [ago(500 - n, n) for n in range(500)])
    parse, read = search.parse, list[bytes]()
    monkeypatch.setattr(search, "parse", lambda data: (read.append(data), time.sleep(0.01), parse(data))[2])
    monkeypatch.setattr(pages, "READ_SECONDS", 600)
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        answer = make_client().get("/dashboard/data?text=p", environ_overrides={"werkzeug.socket": ours})
    assert answer.json["error"]["code"] == "client_gone"
    assert len(read) < 500


# --- records


def test_a_record_is_whole(make_client: Serve, log_path: Path) -> None:
    """A record is shown as the log has it; an id that a client used twice shows both, the latest first."""
    both = [ago(20, 7, prompt="first"), ago(10, 7, prompt="second")]
    write(log_path, [*both, ago(5, 8, prompt="this one names id-7 only")])
    found = make_client().get("/dashboard/record/id-7").get_json()["records"]
    assert found == [json.loads(text) for text in reversed(both)]


def test_hidden_prompts_stay_hidden(make_client: Serve, log_path: Path) -> None:
    """With LOG_PROMPTS=false no words are shown, of lines from before either, and the text filter finds none."""
    turns = [{"role": "user", "content": SECRET, "name": SECRET, "images": [{"url": SECRET}], "reasoning": SECRET}]
    calls = [{"id": "1", "name": "weather", "arguments": SECRET}]
    parameters = {"stop": SECRET, "response_format": {"description": SECRET}, "temperature": 1}
    error = {"type": "x", "code": "y", "message": SECRET}
    words = {"prompt": SECRET, "system": SECRET, "response": SECRET, "parameters": parameters, "error": error}
    others = [{name: value} for name, value in {"messages": turns, "tool_calls": calls, "reasoning": SECRET}.items()]
    write(log_path, [ago(10, 1, **words), *(ago(9, n, operation="chat", **said) for n, said in enumerate(others, 2))])
    shown, hidden = make_client(), make_client(log_prompts=False)
    for path in ("/dashboard/data", *(f"/dashboard/record/id-{number}" for number in (1, 2, 3, 4))):
        assert SECRET in shown.get(path).text
        assert SECRET not in hidden.get(path).text
    assert hidden.get("/dashboard/record/id-1").get_json()["records"][0]["parameters"]["temperature"] == 1
    assert ids(data(shown, text="NOBODY")["latest"]) == ["id-4", "id-3", "id-2", "id-1"]
    assert ids(data(hidden, text="NOBODY")["latest"]) == []
    assert data(hidden)["prompts_hidden"]
