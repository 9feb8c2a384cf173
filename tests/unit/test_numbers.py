"""The numbers that are kept beside the log: what the log has, whatever happens to it, to them, and to workers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from asking import Serve
from flask import Flask
from flask.testing import FlaskClient
from records import Run, answered, line, write

from llm_api.errors import ClientGone, TimedOut
from llm_api.log import numbers, recent, search
from llm_api.log.files import log_files, read_lines, read_records
from llm_api.log.repair import set_aside
from llm_api.log.search import Wanted
from llm_api.log.stats import Count, Distribution, Stats, kind_of

MONTH = 30 * 24 * 60
DAY = 86_400


def many(count: int, days: float = 29, seed: int = 1) -> list[dict[str, Any]]:
    """Return records of the last days, oldest first, of some backends, models and callers."""
    dice = random.Random(seed)
    now = time.time()
    made = []
    for number in range(count):
        backend = dice.choice(["openai", "ollama"])
        failed = {"status": "error", "http_status": 502, "error": {"code": dice.choice(["timeout", "server_error"])}}
        made.append(
            {
                **{"timestamp": now - days * DAY * (1 - number / count), "request_id": f"id-{number}"},
                **{"backend": backend, "requested_backend": backend, "model": dice.choice(["one", "two"])},
                **{"operation": dice.choice(["chat", "generate"]), "caller": dice.choice([None, "alice", "bob"])},
                **{"duration_ms": round(dice.lognormvariate(6, 2), 3), "cached_tokens": 3, "reasoning_tokens": 2},
                **(failed if dice.random() < 0.1 else {}),
            }
        )
    return made


def lines(records: list[dict[str, Any]]) -> list[bytes]:
    return [line(**record) for record in records]


def ask(client: FlaskClient, **query: Any) -> dict[str, Any]:
    answer = client.get("/dashboard/data", query_string={"minutes": MONTH} | query)
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def data(client: FlaskClient, **query: Any) -> dict[str, Any]:
    """Return the answer when all is counted: a busy machine may need more than one question for that."""
    while True:
        plain = {name: value for name, value in query.items() if name == "minutes"}
        shown = ask(client, **plain)
        if shown["complete_since"] is None:
            return shown if query == plain else ask(client, **query)


def total(client: FlaskClient, **query: Any) -> int:
    return data(client, **query)["stats"]["total"]["requests"]


def kept(log_path: Path) -> Path:
    return log_path.with_name("log.jsonl.numbers")


# --- what they are


@pytest.mark.parametrize(
    "query", [{}, {"backend": "ollama"}, {"model": "two", "operation": "chat"}, {"error": "timeout"}]
)
def test_numbers_of_a_month_are_those_of_the_command(
    make_app: Callable[..., Flask], logs: Run, log_path: Path, query: dict[str, str]
) -> None:
    """Over plain and compressed files, with each filter: totals, backends, models, reasons, errors, tokens."""
    made = lines(many(2000))
    write(log_path.with_name("log.jsonl.2.gz"), made[:700])
    write(log_path.with_name("log.jsonl.1"), made[700:1500])
    write(log_path, made[1500:])
    shown = data(make_app().test_client(), **query)["stats"]
    options = [word for name, value in query.items() for word in (f"--{name}", value)]
    told = json.loads(answered(logs("stats", "--json", *options)))
    del shown["over_time"], told["over_time"]
    assert shown == told
    assert shown["total"]["cached_tokens"] == 3 * (shown["total"]["requests"] - shown["total"]["errors"])


def test_over_time_by_backend(make_client: Serve, log_path: Path) -> None:
    """Each stretch has its latency, first chunk and tokens by backend; the stretches begin at whole days here."""
    write(log_path, lines(many(600)))
    shown = data(make_client())
    slots = shown["stats"]["over_time"]
    assert shown["stretch_seconds"] == DAY
    assert [slot["timestamp"] % DAY for slot in slots] == [0] * len(slots)
    for name, group in shown["stats"]["backends"].items():
        found = [slot["backends"][name] for slot in slots if name in slot["backends"]]
        for count in ("requests", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
            assert sum(one[count] for one in found) == group[count] > 0
        assert all(one["first_chunk_p50_ms"] == pytest.approx(20, rel=0.01) for one in found if one["p50_ms"])


@pytest.mark.parametrize("minutes", [5, 60, 720, 1440, 10_080, MONTH, 366 * 24 * 60])
def test_stretches_are_few_and_hold_all(make_client: Serve, log_path: Path, minutes: int) -> None:
    """Whatever time is asked for, there are 31 at most, and nothing falls between minutes, hours and days."""
    made = many(500, days=minutes / 1440 * 0.98)
    write(log_path, lines(made))
    slots = data(make_client(), minutes=minutes)["stats"]["over_time"]
    width = slots[1]["timestamp"] - slots[0]["timestamp"]
    expected = [
        sum(slot["timestamp"] <= one["timestamp"] < slot["timestamp"] + width for one in made) for slot in slots
    ]
    assert [slot["requests"] for slot in slots] == expected
    assert sum(expected) == 500
    assert 2 <= len(slots) <= 32


def test_memory_is_by_stretch_and_backend() -> None:
    """However many kinds of requests there are, the numbers of 30 days take what those of one kind take."""
    latency = Distribution(dict.fromkeys(range(400), 1))

    def taken(kinds: int) -> int:
        tracemalloc.start()
        added = Stats(0, 30 * DAY, DAY)
        for number in range(30 * kinds):
            kind = kind_of({"backend": "openai", "error": {"code": f"error {number // 30}"}})
            added.add(number % 30 * DAY, kind, Count(latency=latency))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert taken(20) < 1.2 * taken(1)


# --- single requests


@pytest.mark.parametrize(
    "query", [{}, {"caller": "alice"}, {"error": "timeout"}, {"text": "prompt 0"}, {"backend": "no"}]
)
def test_rows_are_found_page_by_page(make_client: Serve, log_path: Path, query: dict[str, str]) -> None:
    """The latest, then more and more: each that is wanted comes once, the latest first; and the slowest are those."""
    made = many(400)
    write(log_path.with_name("log.jsonl.1"), lines(made[:150]))
    write(log_path, lines(made[150:]))
    client = make_client()
    shown = data(client, **query)
    found, more = shown["latest"], shown["more"]
    while more:
        page = client.get("/dashboard/requests", query_string={"minutes": MONTH, "before": more} | query).get_json()
        found, more = found + page["requests"], page["more"]
    wanted = Wanted(**query)
    records = list(read_records(read_lines(log_files(log_path))))[::-1]
    expected = [record for record in records if wanted.has(record)]
    assert [row["request_id"] for row in found] == [record["request_id"] for record in expected]
    slowest = sorted((record["duration_ms"] for record in expected), reverse=True)[:20]
    assert [row["duration_ms"] for row in shown["slowest"]] == slowest
    assert shown["rows_left_out"] is False


@pytest.mark.parametrize("before", ["", "nonsense", "0123456789abcdef-5", "-", "x-99999999999999999999"])
def test_no_place_is_refused(make_client: Serve, log_path: Path, before: str) -> None:
    """A place that the log has not, or has no more, is said to be none."""
    write(log_path, lines(many(3)))
    answer = make_client().get("/dashboard/requests", query_string={"before": before})
    assert answer.status_code == (422 if before else 200)


def test_a_place_outlives_rotation(make_client: Serve, log_path: Path) -> None:
    """More is asked for after the log was renamed: it goes on where it was."""
    write(log_path, lines(many(120)))
    client = make_client()
    more = data(client)["more"]
    log_path.rename(log_path.with_name("log.jsonl.1"))
    write(log_path, [line(timestamp=time.time(), request_id="new")])
    page = client.get("/dashboard/requests", query_string={"minutes": MONTH, "before": more}).get_json()["requests"]
    assert [row["request_id"] for row in page] == [f"id-{number}" for number in range(69, 19, -1)]


def test_csv_is_that_of_the_command(make_client: Serve, logs: Run, log_path: Path) -> None:
    """The same lines, the latest first, of what is wanted."""
    write(log_path, lines(many(300)))
    answer = make_client().get("/dashboard/requests.csv", query_string={"minutes": MONTH, "model": "two"})
    assert (answer.mimetype, answer.headers["Content-Disposition"]) == ("text/csv", "attachment; filename=requests.csv")
    told = answered(logs("export", "--format", "csv", "--model", "two"))
    shown, exported = (list(csv.DictReader(io.StringIO(text, newline=""))) for text in (answer.text, told))
    assert shown == exported[::-1]
    assert len(shown) > 50


def test_csv_that_is_cut_short_breaks(make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the requests must not look like all of them; and an error before the first line is an answer."""
    write(log_path, lines(many(300)))
    here = make_client().application.extensions["llm_api"]["llm_api"].dashboard
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 60:
            raise TimedOut("it takes too long")

    with pytest.raises(TimedOut):
        list(here.csv(MONTH, Wanted(), check))
    assert make_client(log_file="-").get("/dashboard/requests.csv").status_code == 503


@pytest.mark.parametrize(
    "text", ["kelvin", "STRASSE", 'say "hi"', "café", "weather {", "ﬁn", " ", "a\\b", "über", "\u212a"]
)
def test_a_text_is_found_as_by_reading_all(log_path: Path, text: str) -> None:
    """What is passed over unread has not the text: other letters of the same case, quotes, escapes and calls too."""
    said = ["\u212aelvin", "Straße", 'Say "Hi"', "CAFÉ", "ﬁnd", "a\\b", "Über", "kelvin", "nothing"]
    made = [{"prompt": word} for word in said] + [{"tool_calls": [{"name": "weather", "arguments": '{"city": 1}'}]}]
    write(log_path, [*lines(made), json.dumps({"timestamp": 1, "prompt": "Über STRASSE"}, ensure_ascii=False).encode()])
    wanted = Wanted(text=text)
    may_be = search._sieve(wanted)
    read = list(read_lines(log_files(log_path)))
    has = [wanted.has(next(read_records([one]))) for one in read]
    assert [may_be(one.data) or not it for one, it in zip(read, has, strict=True)] == [True] * len(read)
    assert any(has)


def test_an_abandoned_question_is_read_no_further(make_client: Serve, log_path: Path) -> None:
    """Whoever asks has gone: the next line is not read. When its time is over, what was read is shown, and said."""
    write(log_path, lines(many(500)))
    here = make_client().application.extensions["llm_api"]["llm_api"].dashboard
    for error, at in ((ClientGone, 30), (TimedOut, 30)):
        calls: list[int] = []

        def check(error: Any = error, at: int = at, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == at:
                raise error("over")

        if error is ClientGone:
            with pytest.raises(ClientGone):
                here.data(MONTH, Wanted(text="prompt"), check, only_own=False)
            assert len(calls) == at
        else:
            shown = here.data(MONTH, Wanted(text="prompt"), check, only_own=False)
            assert shown["stats"]["total"]["requests"] == len(shown["latest"]) == at - 1
            assert shown["complete_since"] > shown["latest"][-1]["timestamp"] - 2 * DAY
            assert shown["rows_left_out"]


# --- whatever happens to them


@pytest.mark.parametrize("damage", ["deleted", "garbage", "cut", "older", "empty", "journal"])
def test_the_file_may_be_lost(make_client: Serve, log_path: Path, damage: str) -> None:
    """Deleted, broken, of another version: it is made again from the log. Who had it open then is refused once."""
    write(log_path, lines(many(1000)))
    client = make_client()
    before = data(client)["stats"]
    file = kept(log_path)
    if damage == "deleted":
        file.unlink()
    elif damage == "garbage":
        file.write_bytes(b"no database at all" * 1000)
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(file, 0)
    elif damage == "journal":
        file.unlink()
        file.with_name(file.name + "-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
    else:
        with_version(file, 99)
    client.get("/dashboard/data", query_string={"minutes": MONTH})
    assert data(client)["stats"] == before


def test_many_may_find_it_lost(log_path: Path) -> None:
    """Who finds a broken file when another has made it again takes the new one."""
    write(log_path, lines(many(50)))

    def counted(_: int) -> float:
        with numbers.opened(log_path) as here:
            while here.count_on():
                pass
            return here.complete_since()

    for _ in range(10):
        kept(log_path).write_bytes(b"no database at all" * 1000)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(counted, range(8))) == [0] * 8


def test_who_finds_it_made_again_removes_nothing(log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a look at the broken file and its removal another may have made it again, and counted."""
    write(log_path, lines(many(50)))
    with numbers.opened(log_path) as here:
        assert here.count_on()
    file, really = kept(log_path), sqlite3.connect
    good, fresh = file.read_bytes(), file.with_suffix(".fresh")
    file.write_bytes(b"no database at all" * 1000)

    def made_again(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(sqlite3, "connect", really)
        fresh.write_bytes(good)
        fresh.replace(file)
        raise sqlite3.DatabaseError("file is not a database")

    monkeypatch.setattr(sqlite3, "connect", made_again)
    with numbers.opened(log_path) as here:
        assert not here.count_on()


def test_a_page_of_it_may_be_broken(make_client: Serve, log_path: Path) -> None:
    """What is found in use to be broken is refused once, never shown; then it is made again from the log."""
    write(log_path, lines(many(3000)))
    client = make_client()
    before = data(client)["stats"]
    file = kept(log_path)
    with file.open("r+b") as broken:
        broken.seek(4096)
        broken.write(b"\xff" * (file.stat().st_size - 4096))
    refused = client.get("/dashboard/data", query_string={"minutes": MONTH})
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "log_unavailable")
    assert data(client)["stats"] == before


def _can_write(file: Path, answer: Connection) -> None:
    with closing(sqlite3.connect(file, 0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
            answer.send(True)
        except sqlite3.OperationalError:
            answer.send(False)


def test_a_thread_that_opens_it_ends_no_locks(log_path: Path) -> None:
    """While one thread counts another opens and closes the file: no other process may write meanwhile, or it breaks."""
    write(log_path, lines(many(50)))
    answers, answer = multiprocessing.Pipe(duplex=False)

    def opened_and_closed() -> None:
        with numbers.opened(log_path) as there:
            there.complete_since()

    def look() -> bool:
        with ThreadPoolExecutor() as pool:
            pool.submit(opened_and_closed).result(60)
        other = multiprocessing.get_context("spawn").Process(target=_can_write, args=[kept(log_path), answer])
        other.start()
        other.join()
        return answers.recv()

    can_write: list[bool] = []
    with numbers.opened(log_path) as here:
        assert here.count_on(pause=lambda: can_write.append(look()))
    assert can_write == [False]


def with_version(file: Path, version: int) -> None:
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()


def test_of_two_who_count_one_waits(make_client: Serve, log_path: Path) -> None:
    """Who comes while another worker counts finds its lines counted: no request counts twice, and none in vain."""
    write(log_path, lines(many(50)))
    begun = threading.Event()

    def count_too() -> bool:
        begun.wait(60)
        with numbers.opened(log_path) as other:
            return other.count_on()

    with ThreadPoolExecutor() as pool, numbers.opened(log_path) as first:
        second = pool.submit(count_too)
        assert first.count_on(pause=begun.set)
        assert second.result(60) is False
    assert total(make_client()) == 50


def test_others_may_not_read_it(make_client: Serve, log_path: Path) -> None:
    """It has callers' names: whoever may not read the log may not read it."""
    write(log_path, lines(many(3)))
    data(make_client())
    assert kept(log_path).stat().st_mode & 0o777 == 0o640


def test_where_it_can_not_be_written_that_is_said(make_client: Serve, log_path: Path) -> None:
    """Zeros would be taken for the truth."""
    write(log_path, lines(many(3)))
    kept(log_path).mkdir()
    refused = make_client().get("/dashboard/data")
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "log_unavailable")
    assert "log.jsonl.numbers can't be used: it is no file" in refused.json["error"]["message"]


def test_without_a_log_there_is_none(make_client: Serve, log_path: Path) -> None:
    """Before the first request nothing is made, no folder either."""
    assert total(make_client()) == 0
    assert not log_path.parent.exists() or not list(log_path.parent.iterdir())


# --- whatever happens to the log


def test_what_is_appended_is_seen_by_all_workers_at_once(make_client: Serve, log_path: Path) -> None:
    """The next question has it, whichever worker is asked; a line without its end has no request yet."""
    made = lines(many(60))
    write(log_path, made[:10])
    workers = [make_client(), make_client()]
    for number in range(10, 60):
        with log_path.open("ab") as log:
            log.write(made[number][:-1])
        assert total(workers[number % 2]) == number
        with log_path.open("ab") as log:
            log.write(b"\n")
        assert [total(worker) for worker in workers] == [number + 1] * 2


def test_rotation_counts_nothing_twice_or_again(
    make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed, then compressed, then deleted: it is counted once, and gone when it is gone."""
    made = lines(many(300))
    write(log_path, made[:200])
    client = make_client()
    assert total(client) == 200
    counted: list[int] = []
    count_of = numbers.count_of
    monkeypatch.setattr(numbers, "count_of", lambda record: counted.append(1) or count_of(record))
    rotated, packed = (log_path.with_name(f"log.jsonl.1{suffix}") for suffix in ("", ".gz"))
    log_path.rename(rotated)
    assert total(client) == 200
    write(log_path, made[200:])
    assert total(client) == 300
    packed.write_bytes(gzip.compress(rotated.read_bytes())[:50])  # gzip has begun
    assert total(client) == 300
    packed.write_bytes(gzip.compress(rotated.read_bytes()))
    rotated.unlink()
    assert total(client) == 300
    assert len(counted) == 100
    packed.unlink()
    assert total(client) == 100
    assert data(client)["complete_since"] is None


@pytest.mark.parametrize("how", ["repaired", "cut", "replaced", "deleted"])
def test_another_file_in_its_place_is_counted_afresh(make_client: Serve, log_path: Path, how: str) -> None:
    """Mended by `verify --repair`, cut by an editor, or begun anew: the numbers are of what is there."""
    made = lines(many(300))
    broken = b'{"timestamp": 1, "torn\n'
    write(log_path, [*made[:100], broken, *made[100:200]])
    client = make_client()
    assert total(client) == 200
    if how == "repaired":
        set_aside(log_path, nullcontext)
    elif how == "cut":
        os.truncate(log_path, len(b"".join(made[:50])))
    elif how == "replaced":
        write(log_path, made[200:])
    else:
        log_path.unlink()
    expected = {"repaired": 200, "cut": 50, "replaced": 100, "deleted": 0}[how]
    shown = data(client)
    assert shown["stats"]["total"]["requests"] == expected
    assert len(shown["latest"]) == min(50, expected)
    assert {row["request_id"] for row in shown["latest"]} <= {json.loads(one)["request_id"] for one in made}


@pytest.fixture
def in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question waits for one small portion to be counted, and nobody counts but who is asked to."""
    monkeypatch.setattr(numbers, "PORTION_BYTES", 20_000)
    monkeypatch.setattr(recent, "COUNT_SECONDS", 0)
    monkeypatch.setattr(recent, "BREAK_SECONDS", 0)
    monkeypatch.setattr(recent, "_keep_counting", lambda _: None)


@pytest.mark.parametrize("who", ["asks", "nobody"])
def test_a_large_log_is_counted_from_its_end(make_client: Serve, in_portions: None, log_path: Path, who: str) -> None:
    """At the first look an answer does not wait for all: it says since when it is complete, and is; the rest is counted
    by further questions, or when nobody asks.
    """
    made = many(1000)
    write(log_path.with_name("log.jsonl.1.gz"), lines(made[:300]))
    write(log_path, lines(made[300:]))
    client = make_client()
    shown, counted = ask(client), list[int]()
    while since := shown["complete_since"]:
        counted.append(sum(one["timestamp"] > since for one in made))
        assert counted[-1] <= shown["stats"]["total"]["requests"]
        if who == "nobody":
            client.application.extensions["llm_api"]["llm_api"].dashboard.count_on()
        shown = ask(client)
    assert counted == sorted(counted)
    assert 0 < counted[0] < 100
    assert len(counted) > 30 if who == "asks" else len(counted) == 1
    assert shown["stats"]["total"]["requests"] == 1000


def test_what_is_compressed_before_it_is_counted_is_counted_then(
    make_client: Serve, in_portions: None, log_path: Path
) -> None:
    """Of a file that was counted in part, its compressed form is not taken for whole."""
    write(log_path, lines(many(1000)))
    client = make_client()
    assert ask(client)["complete_since"]
    log_path.with_name("log.jsonl.1.gz").write_bytes(gzip.compress(log_path.read_bytes()))
    log_path.unlink()
    while (shown := ask(client))["complete_since"]:
        pass
    assert shown["stats"]["total"]["requests"] == 1000


def test_a_line_longer_than_a_portion(make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is one line, forwards and backwards."""
    monkeypatch.setattr(numbers, "PORTION_BYTES", 1000)
    made = many(20)
    made[5]["prompt"] = made[19]["prompt"] = "x" * 50_000
    write(log_path, lines(made))
    client = make_client()
    assert total(client) == 20
    with log_path.open("ab") as log:
        log.write(line(timestamp=time.time(), prompt="y" * 50_000))
    assert total(client) == 21
    assert len(data(client, text="yyyy")["latest"]) == 1


def test_strange_lines_count_for_what_they_are(make_client: Serve, log_path: Path) -> None:
    """Another program's, blank ones, half characters, huge numbers and odd types break nothing."""
    now = time.time()
    odd: list[dict[str, Any]] = [
        {"caller": "\ud800", "model": "\ud800"},
        {"caller": ["a"], "http_status": {"a": 1}, "error": {"code": [1]}, "status": "error"},
        {"duration_ms": 10**25, "input_tokens": 10**25},
        {"timestamp": 10**25},
        {"timestamp": -5},
    ]
    write(log_path, [b"\n", b"words\n", b'{"level": "info"}\n', *(line(**{"timestamp": now} | one) for one in odd)])
    shown = data(make_client())
    assert shown["stats"]["total"]["requests"] == 4
    assert total(make_client(), minutes=366 * 24 * 60) == 4


# --- whatever happens to workers


def _count(log: Path) -> None:
    while True:
        with numbers.opened(log) as here:
            while here.count_on():
                pass


def test_kills_lose_and_double_nothing(make_client: Serve, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that count at the same time are killed again and again: afterwards each line is counted once."""
    monkeypatch.setattr(numbers, "PORTION_BYTES", 4000)
    write(log_path, [])
    made = lines(many(1500))
    fork = multiprocessing.get_context("fork")
    dice = random.Random(3)
    with log_path.open("ab", buffering=0) as log:
        for begin in range(0, 1500, 75):
            workers = [fork.Process(target=_count, args=[log_path]) for _ in range(2)]
            for worker in workers:
                worker.start()
            for one in made[begin : begin + 75]:
                log.write(one)
            time.sleep(dice.random() / 10)
            for worker in workers:
                assert worker.pid
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
    monkeypatch.undo()
    client = make_client()
    found = data(client)["stats"]
    kept(log_path).unlink()
    assert found == data(client)["stats"]
    assert found["total"]["requests"] == 1500
