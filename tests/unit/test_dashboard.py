"""The pages and their data: open shells, data behind the key, the same numbers as the command, bounded reading."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from llm_api.log import files as log_files
from llm_api.log import recent as dashboard

NOW = time.time()
SECRET = "the words nobody may see"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the log at each question; the hour of the log ends when a test begins."""
    monkeypatch.setattr(dashboard, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(dashboard, "FRESH_FACTOR", 0)
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
    assert 1700 < told["total"]["requests"] <= 1800
    assert told["fallback_reasons"] == {"timeout": told["models"]["stub/stub"]["requests"]}
    assert told["total"]["first_chunk_p50_ms"] == pytest.approx(20, rel=0.01)
    assert shown["complete_since"] is None


def iso(seconds: float) -> str:

    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [3, 2, 1, 0]),
        ({"minutes": 1}, [3]),
        ({"backend": "stub"}, [2]),
        ({"backend": "ollama"}, [2]),
        ({"status": "error"}, [1]),
        ({"status": "502"}, [1]),
        ({"status": "fallback"}, [2]),
        ({"text": "NEEDLE"}, [0]),
        ({"text": "needle", "status": "error"}, []),
        ({"minutes": "nonsense"}, [3, 2, 1, 0]),
        ({"minutes": -5}, [3]),
        ({"minutes": 10**30}, [4, 3, 2, 1, 0]),
    ],
)
def test_filters(make_client: Serve, log_path: Path, query: dict[str, Any], expected: list[int]) -> None:
    """Time, backend (asked or answering), status, fallbacks and text choose; nonsense means the last hour."""
    fallen = {"requested_backend": "ollama", "backend": "stub", "fallback": True, "fallback_reason": "timeout"}
    old = ago(100_000, 4)
    error = ago(200, 1, status="error", http_status=502)
    write(log_path, [old, ago(300, 0, response="a needle"), error, ago(100, 2, **fallen), ago(10, 3)])
    shown = data(make_client(), **query)
    assert sorted(ids(shown["latest"])) == sorted(f"id-{n}" for n in expected)
    assert shown["stats"]["total"]["requests"] == len(expected)


def test_latest_and_slowest(make_client: Serve, log_path: Path) -> None:
    """The fifty latest come latest first, the twenty slowest slowest first."""
    write(log_path, [ago(500 - n, n, duration_ms=float(n * 37 % 200)) for n in range(200)])
    shown = data(make_client())
    assert ids(shown["latest"]) == [f"id-{n}" for n in range(199, 149, -1)]
    assert [row["duration_ms"] for row in shown["slowest"]] == [float(n) for n in range(199, 179, -1)]


def test_a_large_log_is_read_in_part(make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than MAX_BYTES are read from the end, and the answer says since when its numbers are complete."""
    lines = [ago(3000 - n, n, duration_ms=0.0) for n in range(3000)]
    write(log_path.with_name("log.jsonl.1"), lines[:2900])
    write(log_path, lines[2900:])
    monkeypatch.setattr(dashboard, "MAX_BYTES", len(b"".join(lines[-500:])) + 1)
    shown = data(make_client())
    assert shown["stats"]["total"]["requests"] == 500
    assert shown["complete_since"] == pytest.approx(NOW - 500)
    assert data(make_client(), minutes=5)["complete_since"] is None


@pytest.mark.parametrize(
    ("seconds_ago", "shown"),
    [
        ([100_000, 40, 90_000, 80_000, 10], [4, 3, 2, 1]),  # back for two requests, and right again
        ([90, -7200, -7100, 10], [3, 2, 1, 0]),  # it was fast, and went back
        ([-7200, 100_000, 10], [2, 1, 0]),
        ([100_000, 90_000, 10], [2]),
    ],
)
def test_a_clock_that_went_back_hides_nothing(
    make_client: Serve, log_path: Path, seconds_ago: list[int], shown: list[int]
) -> None:
    """What was written after a request of this time is of this time; the order of the lines says so, not the clock."""
    write(log_path, [ago(seconds, number) for number, seconds in enumerate(seconds_ago)])
    found = data(make_client())
    assert ids(found["latest"]) == [f"id-{number}" for number in shown]
    slots = found["stats"]["over_time"]
    assert sum(slot["requests"] for slot in slots) == found["stats"]["total"]["requests"] == len(shown)
    assert slots[0]["timestamp"] < slots[-1]["timestamp"] < found["until"]


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


def test_before_a_compressed_file_nothing_is_read(make_client: Serve, log_path: Path) -> None:
    """A gzipped file can't be read backwards: its requests are missing, and that is said."""
    write(log_path.with_name("log.jsonl.1.gz"), [ago(900, 0)])
    write(log_path, [ago(600, 1)])
    shown = data(make_client())
    assert ids(shown["latest"]) == ["id-1"]
    assert shown["complete_since"] == pytest.approx(NOW - 600 + 0.1)


@pytest.mark.parametrize("block", [1, 7, 100, 2**20])
def test_lines_are_read_back_whole(log_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Wherever a block begins, each line comes once and whole, the latest first; an unfinished one does not come."""
    monkeypatch.setattr(log_files, "BACK_BYTES", block)
    write(log_path.with_name("log.jsonl.1"), [b"one\n", b"two\n"])
    write(log_path, [b"three\n", b"\n", b"four\n", b"unfin"])
    assert list(log_files.newest_first(log_path, 10**9)) == [b"four", b"", b"three", b"two", b"one"]


def test_a_rotation_meanwhile_counts_no_line_twice(log_path: Path) -> None:
    """The log is renamed after its first line was read: the rest is still read once."""
    write(log_path.with_name("log.jsonl.1"), [ago(20, 1)])
    write(log_path, [ago(10, 2)])
    reading = log_files.newest_first(log_path, 10**9)
    first = next(reading)
    log_path.with_name("log.jsonl.1").rename(log_path.with_name("log.jsonl.2"))
    log_path.rename(log_path.with_name("log.jsonl.1"))
    assert [first, *reading] == [ago(10, 2).rstrip()]


def test_without_a_log(make_client: Serve) -> None:
    """Before the first request there are zeros, and no record."""
    client = make_client()
    assert data(client)["stats"]["total"]["requests"] == 0
    assert client.get("/dashboard/record/x").get_json() == {"records": []}


def test_many_viewers_cost_one_read(make_client: Serve, monkeypatch: pytest.MonkeyPatch, log_path: Path) -> None:
    """Who asks the same at the same time shares one reading; another question has its own; both grow old."""
    write(log_path, [ago(10)])
    monkeypatch.setattr(dashboard, "FRESH_SECONDS", 60.0)
    reads = []
    begun, go = threading.Event(), threading.Event()
    real = dashboard.newest_first

    def slow(path: Path, limit: int) -> Any:
        reads.append(path)
        begun.set()
        assert go.wait(10)
        return real(path, limit)

    monkeypatch.setattr(dashboard, "newest_first", slow)
    client = make_client()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(data, client.application.test_client()) for _ in range(5)]
        assert begun.wait(10)
        go.set()
        assert [answer.result()["stats"]["total"]["requests"] for answer in answers] == [1] * 5
    assert len(reads) == 1
    for n in range(20):
        data(client, text=str(n))
    assert len(reads) == 21
    data(client)
    assert len(reads) == 22  # only so many answers are kept


def test_who_waits_too_long_is_told(make_client: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log can't be read, on a disk that hangs say, viewers get 503 and don't take all threads."""
    monkeypatch.setattr(dashboard, "PATIENCE_SECONDS", 0.05)
    client = make_client()
    with client.application.extensions["llm_api"]["llm_api"].dashboard._reading:
        assert client.get("/dashboard/data").status_code == 503


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


def test_a_gigabyte_costs_little(make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 1 GB, mostly a hole, is answered from its end: what is not needed is not read."""
    write(log_path, [ago(100_000)])
    os.truncate(log_path, 10**9)
    with log_path.open("ab") as log:
        log.write(b"\n" + b"".join(ago(7200 - n, n) for n in range(7200)))
    looked: list[bytes] = []
    parse = dashboard.parse
    monkeypatch.setattr(dashboard, "parse", lambda data: (looked.append(data), parse(data))[1])
    for minutes, expected in ((10, 600), (10_000, 7200)):
        looked.clear()
        started = time.process_time()
        shown = data(make_client(), minutes=minutes)
        assert time.process_time() - started < 5
        assert shown["stats"]["total"]["requests"] == pytest.approx(expected, abs=60)
        behind = dashboard.OLDER_BYTES // len(ago(0)) if minutes == 10 else 0
        assert len(looked) == pytest.approx(expected + behind, abs=70)
        assert (shown["complete_since"] is None) == (minutes == 10)
