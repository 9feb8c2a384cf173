"""`flask llm logs`: what its commands print, over logs of real requests and logs made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve
from fakes import Fake
from flask import Flask
from providers import FarEnd
from records import HOSTILE, NOON, STEERING, Run, answered, ids, line, record, write
from responses import RequestsMock

from llm_api import LLMAPI
from llm_api.errors import Unreachable

# --- tail


def test_tail_shows_who_answered_what(make_client: Serve, logs: Run) -> None:
    """A line says when, how it ended, who answered, how long it took, tokens, the id, and how both texts begin."""
    make_client().post("/generate", json={"prompt": "capital of\nFrance"}, headers={"X-Request-ID": "mine"})
    shown = answered(logs("tail"))
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +ok +200 +\d+ ms +stub/stub +3\+\d+ tokens +mine +", shown)
    assert "capital of France -> [stub] This is a stub" in shown
    assert shown.count("\n") == 1


def test_tail_names_the_fallback(make_client: Serve, logs: Run) -> None:
    """A request that another backend answered shows it, with the reason."""
    make_client(llm_backend="openai", llm_fallback=("stub",)).post("/generate", json={"prompt": "Hello"})
    assert "fallback: not_configured" in answered(logs("tail"))


def test_tail_shows_an_error_and_its_code(make_client: Serve, logs: Run) -> None:
    """A failed request has its status and its error's code; so has a refused one, which has no body."""
    make_client(llm_backend="openai").post("/generate", json={"prompt": "Hello"})
    make_client().post("/generate", data=b"{", content_type="application/json")
    failed, refused = answered(logs("tail")).splitlines()
    assert "error 503" in failed
    assert "not_configured" in failed
    assert "error 400" in refused
    assert "malformed_json" in refused


def test_tail_shows_who_did_not_answer(make_client: Serve, logs: Run) -> None:
    """A request that was refused before any backend was asked says so; one that all have failed names the first."""
    make_client().post("/generate", json={})
    make_client(Fake("one", turns=[Unreachable("it is down")])).post("/generate", json={"prompt": "Hello"})
    refused, failed = answered(logs("tail")).splitlines()
    assert "  (refused)  " in refused
    assert "  one/-  " in failed


@pytest.mark.parametrize(("count", "shown"), [("3", [7, 8, 9]), ("0", []), ("99", list(range(10)))])
def test_tail_shows_the_last_requests(logs: Run, log_path: Path, count: str, shown: list[int]) -> None:
    """-n N is the last N, oldest first."""
    write(log_path, map(line, range(10)))
    assert ids(answered(logs("tail", "--json", "-n", count))) == [f"id-{n}" for n in shown]


def test_tail_finds_the_last_of_long_lines(logs: Run, log_path: Path) -> None:
    """Lines longer than what is read at once come out whole."""
    data = write(log_path, [line(n, response="x" * 300_000) for n in range(4)])
    assert answered(logs("tail", "--json", "-n", "2")).encode() == b"".join(data.splitlines(True)[-2:])


def test_tail_goes_back_over_rotation(logs: Run, log_path: Path) -> None:
    """Just after a rotation the last requests stand in the renamed file, and are shown from there."""
    write(log_path.with_name("log.jsonl.1"), map(line, range(5)))
    write(log_path, [line(5)])
    assert ids(answered(logs("tail", "--json", "-n", "3"))) == ["id-3", "id-4", "id-5"]


# --- search


FOUND = [
    record(0, prompt="Capital of FRANCE"),
    record(60, backend="claude", requested_backend="claude", system="You know france.", duration_ms=2500.0),
    record(120, backend="stub", response="France is a country", fallback=True, fallback_reason="timeout"),
    record(180, backend=None, response=None, status="error", http_status=502, error={"message": "no france here"}),
    record(240, status="aborted", http_status=499, duration_ms=9000.0),
    record(300, operation="chat", prompt=None, messages=[{"role": "user", "content": "Straße in france"}]),
]
LOCAL = [datetime.fromtimestamp(NOON + second).isoformat() for second in (60, 241)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], [0, 60, 120, 180, 240, 300]),
        (["--text", "france"], [0, 60, 120, 180, 300]),
        (["--text", "STRASSE"], [300]),
        (["--regex", "^Capital of [A-Z]+$"], [0]),
        (["--regex", "(?i)^france"], [120]),
        (["--backend", "claude"], [60]),
        (["--backend", "openai"], [0, 120, 180, 240, 300]),
        (["--status", "ok"], [0, 60, 120, 300]),
        (["--status", "error"], [180]),
        (["--status", "499"], [240]),
        (["--since", "2026-11-22T12:03:00Z"], [180, 240, 300]),
        (["--until", "2026-11-22T12:03:00+00:00"], [0, 60, 120]),
        (["--since", LOCAL[0], "--until", LOCAL[1]], [60, 120, 180, 240]),
        (["--slower-than", "2500"], [240]),
        (["--slower-than", "99.9", "--status", "ok"], [0, 60, 120, 300]),
        (["--fallbacks"], [120]),
        (["--text", "france", "--regex", "country", "--backend", "stub", "--status", "200"], [120]),
        (["--fallbacks", "--backend", "stub", "--since", LOCAL[0], "--until", LOCAL[1], "--slower-than", "1"], [120]),
        (["--fallbacks", "--status", "error"], []),
        (["--reason", "timeout"], [120]),
        (["--reason", "unavailable"], []),
        (["--text", "no such words"], []),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(map(str, value)) or "none",
)
def test_search_finds(logs: Run, log_path: Path, options: list[str], found: list[int]) -> None:
    """Each option narrows the search, several do so together; times are local unless they name a zone."""
    write(log_path, [json.dumps(r).encode() + b"\n" for r in FOUND])
    assert ids(answered(logs("search", "--json", *options))) == [f"id-{n}" for n in found]


def test_search_takes_how_long_ago(logs: Run, log_path: Path) -> None:
    """90s, 15m, 2h and 7d count back from now."""
    now = time.time()
    ages = {"week": 8 * 86_400, "day": 86_400, "hour": 3600, "minutes": 120, "now": 0}
    write(log_path, [line(request_id=name, timestamp=now - age) for name, age in ages.items()])
    for ago, found in {"90s": 1, "15m": 2, "2h": 3, "7d": 4}.items():
        assert ids(answered(logs("search", "--json", "--since", ago))) == list(ages)[-found:]
    assert ids(answered(logs("search", "--json", "--since", "2h", "--until", "15m"))) == ["hour"]


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--regex", "(", "regular expression"),
        ("--since", "tomorrow", "write 2026-11-23"),
        ("--until", "2026-13-01", "write 2026-11-23"),
        ("--since", "15", "write 2026-11-23"),
        ("--slower-than", "fast", "not a valid float"),
    ],
)
def test_search_says_what_is_wrong_with_an_option(
    make_client: Serve, logs: Run, option: str, value: str, why: str
) -> None:
    """A wrong value is a usage error that names the option, quotes the value and shows how to write it."""
    make_client().post("/generate", json={"prompt": "Hello"})
    shown = answered(logs("search", option, value), exit_code=2)
    assert option in shown
    assert value in shown
    assert why in shown


# --- show


def test_show_prints_the_whole_record(make_client: Serve, logs: Run, log_lines: Callable[[], list[Any]]) -> None:
    """It is the log's own record, every field of it."""
    client = make_client()
    for name in ("one", "two", "three"):
        client.post("/generate", json={"prompt": name, "seed": 1}, headers={"X-Request-ID": name})
    assert json.loads(answered(logs("show", "two"))) == log_lines()[1]


def test_show_knows_an_id_from_its_beginning(make_client: Serve, logs: Run) -> None:
    """Only a whole id is one: a part of it, or an id in another request's prompt, is no request."""
    make_client().post("/generate", json={"prompt": "where is other-id?"}, headers={"X-Request-ID": "one-id"})
    for wrong in ("one", "other-id"):
        assert f"no request in the log has the id {wrong}" in answered(logs("show", wrong), exit_code=1)


BODIES = [
    {"prompt": "Hello"},
    {"prompt": 'it\'s $HOME `id` "quoted" \\ \n € 🙂 !', "system": "Be 'brief'."},
    {"prompt": "@file", "model": "x-1", "max_tokens": 5, "temperature": 0, "top_p": 0.5, "seed": -1},
    {"prompt": "Hello", "stop": ["a b", "'"], "stream": True},
    {"prompt": "long: " + "日本 " * 30_000},
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["prompt"][:8])
def test_show_curl_sends_the_same_body(make_client: Serve, logs: Run, tmp_path: Path, body: dict[str, Any]) -> None:
    """The printed line, run by a shell, hands curl the URL, the type and the body that was sent, however long."""
    make_client().post("/generate", json=body, headers={"X-Request-ID": "mine"}).get_data()
    printed = answered(logs("show", "mine", "--curl", "--url", "http://far.example/"))
    said = received_by_curl(printed, tmp_path)
    assert "http://far.example/generate" in said["arguments"]
    assert "Content-Type: application/json" in said["arguments"]
    assert json.loads(said["body"]) == body
    assert not STEERING.search(printed)


def received_by_curl(printed: str, folder: Path) -> dict[str, Any]:
    """Run a curl line with a `curl` that says what it got; its body is -d's value, or what stdin has."""
    program = folder / "curl"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "words = sys.argv[1:]\n"
        "flag = next(w for w in words if w in ('-d', '--data', '--data-binary'))\n"
        "body = words.pop(words.index(flag) + 1)\n"
        "body = sys.stdin.read() if body == '@-' else body\n"
        "json.dump({'arguments': words, 'body': body}, sys.stdout)\n"
    )
    program.chmod(0o755)
    found = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONUTF8": "1"}
    script = folder / "line.sh"
    script.write_text(printed)
    ran = subprocess.run(["sh", str(script)], env=found, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_show_curl_goes_to_the_service(make_client: Serve, logs: Run) -> None:
    """Without --url it is the address that gunicorn listens on."""
    make_client().post("/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": "mine"})
    for bind, words in {
        "127.0.0.1:8000": ["http://127.0.0.1:8000/generate"],
        "10.0.0.7:9000": ["http://10.0.0.7:9000/generate"],
        "0.0.0.0:9000": ["http://127.0.0.1:9000/generate"],
        "[::]:9000": ["http://[::1]:9000/generate"],
        "unix:/run/a b.sock": ["http://localhost/generate", "--unix-socket", "/run/a b.sock"],
    }.items():
        assert shlex.split(answered(logs("show", "mine", "--curl", bind=bind)))[1 : 1 + len(words)] == words
    assert "http://far:1/generate" in answered(logs("show", "mine", "--curl", "--url", "http://far:1/"))


def test_show_curl_knows_the_prefix(log_path: Path, tmp_path: Path) -> None:
    """In a host app the API is under its prefix."""
    app = Flask("host")
    LLMAPI(app, "/llm", llm_backend="stub", log_file=log_path, bind="127.0.0.1:8000")
    app.test_client().post("/llm/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": "mine"})
    said = app.test_cli_runner().invoke(args=["llm", "logs", "show", "mine", "--curl"]).output
    assert "http://127.0.0.1:8000/llm/generate" in said


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({"log_prompts": False}, {"prompt": "Hello there"}),
        ({"log_max_text": 5}, {"prompt": "Hello there"}),
        ({"log_max_text": 5}, {"prompt": "Hello", "system": "Be brief."}),
        ({}, {"prompt": ""}),
    ],
    ids=["hidden", "prompt cut", "system cut", "refused"],
)
def test_show_curl_refuses_without_the_whole_request(
    make_client: Serve, logs: Run, settings: dict[str, Any], body: dict[str, Any]
) -> None:
    """Where the log has not the whole text, no line is printed, and the reason is."""
    make_client(**settings).post("/generate", json=body, headers={"X-Request-ID": "mine"})
    assert "LOG_PROMPTS=false or LOG_MAX_TEXT" in answered(logs("show", "mine", "--curl"), exit_code=1)


def test_show_curl_needs_no_whole_answer(make_client: Serve, logs: Run) -> None:
    """A cut answer does not matter: it is the request that is sent again."""
    make_client(log_max_text=5).post("/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": "mine"})
    assert '{"prompt": "Hello"}' in answered(logs("show", "mine", "--curl"))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "He", "content_truncated": True, "content_bytes": 5},
        {"role": "user", "content_chars": 5, "content_sha256": "00"},
    ],
    ids=["cut", "hidden"],
)
def test_show_curl_refuses_cut_messages(logs: Run, log_path: Path, message: dict[str, Any]) -> None:
    """Nor is a line printed where one of the messages is cut or hidden."""
    write(log_path, [line(operation="chat", prompt=None, messages=[{"role": "system", "content": "x"}, message])])
    answered(logs("show", "id-0", "--curl"), exit_code=1)


# --- stats


@pytest.fixture
def counted(logs: Run, log_path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return 2,000 records of three backends over an hour, and what `stats --json` says of them."""
    dice = random.Random(7)
    records = []
    for n in range(2000):
        backend = dice.choice(["openai", "claude", "stub"])
        status = dice.choices(["ok", "error", "aborted"], [90, 8, 2])[0]
        more = {"backend": backend if status == "ok" else None, "requested_backend": backend, "status": status}
        more |= {"duration_ms": round(dice.lognormvariate(6, 1.5), 3), "fallback": backend == "stub" and n % 3 == 0}
        more |= {"output_tokens": None if n % 50 == 0 else dice.randint(1, 300), "input_tokens": dice.randint(1, 90)}
        records.append(record(0, **more | {"timestamp": NOON + n * 3600 / 1999, "request_id": f"id-{n}"}))
    write(log_path, [json.dumps(r).encode() + b"\n" for r in records])
    return records, json.loads(answered(logs("stats", "--json")))


def rank(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def check_group(records: list[dict[str, Any]], numbers: dict[str, Any]) -> None:
    """Fail where the numbers are not those of the records."""
    good = [r for r in records if r["status"] == "ok"]
    counted = [r for r in good if r["output_tokens"]]
    assert numbers["requests"] == len(records)
    for name in ("error", "aborted"):
        assert numbers[{"error": "errors"}.get(name, name)] == sum(r["status"] == name for r in records)
    assert numbers["fallbacks"] == sum(r["fallback"] for r in records)
    assert numbers["fallback_share"] == pytest.approx(numbers["fallbacks"] / max(1, len(records)), abs=1e-4)
    for percent in (50, 95, 99):
        assert numbers[f"p{percent}_ms"] == pytest.approx(rank([r["duration_ms"] for r in good], percent), rel=0.01)
    assert numbers["input_tokens"] == sum(r["input_tokens"] for r in good)
    assert numbers["output_tokens"] == sum(r["output_tokens"] for r in counted)
    rate = 1000 * numbers["output_tokens"] / sum(r["duration_ms"] for r in counted)
    assert numbers["tokens_per_second"] == pytest.approx(rate, abs=0.06)


def test_stats_counts_all_and_each_backend(counted: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    """Requests, errors, fallbacks, percentiles to 1 % and tokens/s are those of the records, whoever failed."""
    records, numbers = counted
    check_group(records, numbers["total"])
    assert set(numbers["backends"]) == {"openai", "claude", "stub"}
    for name, group in numbers["backends"].items():
        check_group([r for r in records if r["requested_backend"] == name], group)


def test_stats_shows_how_often_the_configured_backend_failed(logs: Run, log_path: Path) -> None:
    """Fallbacks count for who was configured, times for who answered, refusals for nobody."""
    fallen = {"requested_backend": "ollama", "backend": "stub", "fallback": True, "duration_ms": 1.0}
    refused = {"backend": None, "attempts": [], "status": "error", "http_status": 422, "duration_ms": 0.1}
    own = line(3, backend="ollama", requested_backend="ollama", duration_ms=500.0)
    write(log_path, [*(line(n, **fallen) for n in range(3)), own, line(4, **refused)])
    numbers = json.loads(answered(logs("stats", "--json")))
    ollama, stub = numbers["backends"]["ollama"], numbers["backends"]["stub"]
    assert (ollama["requests"], ollama["errors"], ollama["fallback_share"]) == (4, 0, 0.75)
    assert ollama["p50_ms"] == pytest.approx(500, rel=0.01)
    assert (stub["requests"], stub["fallbacks"], stub["p50_ms"]) == (0, 0, pytest.approx(1, rel=0.01))
    assert (numbers["refused"]["requests"], numbers["refused"]["errors"], numbers["total"]["requests"]) == (1, 1, 5)
    assert re.search(r"\(refused\) +1 +1", answered(logs("stats")))


def test_stats_counts_over_time(counted: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    """The stretches follow each other from the first record to the last, and each has its own requests."""
    records, numbers = counted
    begins = [slot["timestamp"] for slot in numbers["over_time"]]
    assert len(begins) == 24
    assert begins == pytest.approx([NOON + 150 * n for n in range(24)], abs=0.01)
    for begin, slot in zip(begins, numbers["over_time"], strict=True):
        last = begin == begins[-1]
        check_group([r for r in records if begin <= r["timestamp"] < begin + 150 or (last and r is records[-1])], slot)


def test_stats_looks_at_what_the_options_choose(logs: Run, log_path: Path) -> None:
    """--since, --backend and the others choose the records, and the time that is shown."""
    write(log_path, [line(n, backend="claude" if n % 2 else "openai") for n in range(100)])
    shown = answered(logs("stats", "--json", "--since", "2026-11-22T12:00:50Z", "--backend", "claude"))
    numbers = json.loads(shown)
    assert numbers["total"]["requests"] == 25
    assert numbers["over_time"][0]["timestamp"] == NOON + 50


def test_stats_stretches_do_not_begin_before_the_log(logs: Run, log_path: Path) -> None:
    """--since 7d on a log of one minute shows that minute in 24 stretches, not a week with one."""
    now = time.time()
    write(log_path, [line(request_id=str(n), timestamp=now - 60 + n) for n in range(60)])
    slots = json.loads(answered(logs("stats", "--json", "--since", "7d")))["over_time"]
    assert sum(slot["requests"] > 0 for slot in slots) == 24


def test_stats_of_an_empty_log(logs: Run, log_path: Path) -> None:
    """No requests make zeros and dashes, no crash."""
    write(log_path, [])
    numbers = json.loads(answered(logs("stats", "--json")))
    assert (numbers["total"]["requests"], numbers["total"]["p50_ms"], numbers["backends"]) == (0, None, {})
    assert re.search(r"all +0 +0 +0 +0\.0% +- +- +- +-", answered(logs("stats")))


def test_stats_of_one_request(make_client: Serve, logs: Run) -> None:
    """One request is p50 and p99 at once, and fills one bar."""
    make_client().post("/generate", json={"prompt": "Hello"})
    shown = answered(logs("stats"))
    assert re.search(r"stub +1 +0 +0 +0\.0%", shown)
    assert shown.count("█" * 30) == 1


def test_stats_fits_80_columns(logs: Run, log_path: Path) -> None:
    """With large numbers the tables stay within 80 columns, nothing of them cut off."""
    much = {"backend": "huggingface", "duration_ms": 123_456.7, "output_tokens": 2000, "fallback": True}
    slow = [line(n, **much) for n in range(2)]
    write(log_path, slow * 5_000)
    shown = answered(logs("stats", "--backend", "huggingface"))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "10000 " in shown
    assert "tokens/s" in shown


def test_stats_aligns_its_columns(logs: Run, log_path: Path) -> None:
    """Names begin and numbers end in one column, under their headings."""
    write(log_path, [line(0, backend="a"), line(1, backend="long-name", duration_ms=99_999.0)])
    rows = answered(logs("stats")).splitlines()[:5]
    assert [row.split()[0] for row in rows] == ["backend", "a", "long-name", "openai", "all"]
    assert len({len(row) for row in rows}) == 1


# --- export


def test_export_csv_reads_back(make_client: Serve, logs: Run, log_lines: Log) -> None:
    """A row a record; texts as they were, with quotes, commas and newlines; other values as JSON."""
    client = make_client(llm_backend="openai", llm_fallback=("stub",))
    client.post("/generate", json={"prompt": 'a "b", c\nd;e\té€', "stop": ["x"], "temperature": 0.5})
    client.post("/generate", json={"prompt": ""})
    rows = list(csv.DictReader(io.StringIO(answered(logs("export", "--format", "csv")), newline="")))
    assert [as_read(row) for row in rows] == [as_read({n: cell(v) for n, v in r.items()}) for r in log_lines()]


def cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def as_read(row: dict[str, str]) -> dict[str, str]:
    """Leave out what is empty: a record may lack what the header has."""
    return {name: text for name, text in row.items() if text}


@pytest.mark.parametrize("settings", [{"log_prompts": False}, {"log_max_text": 3}], ids=["hidden", "cut"])
def test_export_csv_has_all_fields(
    make_client: Serve, logs: Run, log_lines: Callable[[], list[Any]], settings: dict[str, Any]
) -> None:
    """Hashes, lengths and what says that a text was cut have columns too."""
    make_client(**settings).post("/generate", json={"prompt": "Hello", "system": "Be brief."})
    (row,) = csv.DictReader(io.StringIO(answered(logs("export", "--format", "csv"))))
    assert set(log_lines()[0]) <= set(row)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n="])
def test_export_csv_defuses_formulas(logs: Run, log_path: Path, start: str) -> None:
    """No cell begins as a spreadsheet's formula does: a stranger wrote it."""
    text = start + "HYPERLINK(1)"
    write(log_path, [line(prompt=text, response=text, client_ip=text)])
    (row,) = csv.DictReader(io.StringIO(answered(logs("export", "--format", "csv")), newline=""))
    for name in ("prompt", "response", "client_ip"):
        assert row[name].endswith("HYPERLINK(1)")
        assert row[name].lstrip("\n")[0] not in "=+-@\t\r"


def test_export_csv_takes_half_a_surrogate_pair(logs: Run, log_path: Path, tmp_path: Path) -> None:
    """A model's broken character, which no encoding has, does not end the export."""
    write(log_path, [line(0, response="half \ud83d of it"), line(1)])
    answered(logs("export", "--format", "csv", "-o", str(tmp_path / "log.csv")))
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["request_id"] for row in csv.DictReader(file)] == ["id-0", "id-1"]


def test_export_jsonl_is_the_log_byte_for_byte(make_client: Serve, logs: Run, log_path: Path, tmp_path: Path) -> None:
    """What is exported is what was logged, to the byte."""
    client = make_client()
    for prompt in ("a", "é\u2028🙂\x1b", "1e400 0.1 -0.0"):
        client.post("/generate", json={"prompt": prompt, "temperature": 0.1})
    assert answered(logs("export")).encode() == log_path.read_bytes()
    answered(logs("export", "--format", "jsonl", "-o", str(tmp_path / "out.jsonl")))
    assert (tmp_path / "out.jsonl").read_bytes() == log_path.read_bytes()


def test_export_chooses_records(logs: Run, log_path: Path) -> None:
    """The options of search choose here too."""
    write(log_path, [line(0), line(1, fallback=True), line(2)])
    assert ids(answered(logs("export", "--fallbacks"))) == ["id-1"]


# --- strangers' text and strange lines


def test_an_upstreams_error_code_never_steers_the_terminal(
    make_client: Serve, logs: Run, responses: RequestsMock, log_path: Path
) -> None:
    """A far end's own word for an error is a stranger's text as well."""
    said = {"error": {"message": "no", "type": HOSTILE, "code": HOSTILE}}
    responses.post("https://api.openai.com/v1/chat/completions", status=400, json=said)
    client = make_client(llm_backend="openai", openai_api_key="sk-12345678")
    assert client.post("/generate", json={"prompt": "Hello"}).status_code == 400
    for arguments in (["tail"], ["search"], ["stats"]):
        assert STEERING.findall(answered(logs(*arguments))) == []


@pytest.fixture
def responses() -> Any:
    with FarEnd() as mock:
        yield mock


STRANGE = {
    "torn": b'{"timestamp": 179\n',
    "empty": b"\n",
    "no object": b"[1, 2]\n",
    "other object": b'{"level": "info"}\n',
    "wrong types": json.dumps({name: [1] for name in record()}).encode() + b"\n",
    "nulls": json.dumps(dict.fromkeys(record())).encode() + b"\n",
    "not UTF-8": b'{"request_id": "\xff"}\n',
    "UTF-8": line(8, prompt="é").replace(b"\\u00e9", "é".encode()),
    "NaN": line(9).replace(b"100.0", b"NaN"),
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "zeros": bytes(1000) + b"\n",
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize(
    "arguments",
    ["tail", "search --text answer", "search --slower-than 1", "show id-1", "stats", "export", "export --format csv"],
)
def test_a_strange_line_does_not_end_a_command(logs: Run, log_path: Path, arguments: str, name: str) -> None:
    """Whatever a line holds, the commands go on to the next."""
    write(log_path, [line(0), STRANGE[name], line(1)])
    shown = answered(logs(*arguments.split()))
    assert shown if arguments == "stats" else "id-1" in shown


@pytest.mark.parametrize("arguments", [["tail"], ["search"], ["export"]], ids=" ".join)
def test_json_output_is_json(logs: Run, log_path: Path, arguments: list[str]) -> None:
    """What is printed for scripts parses, a line that another tool wrote in plain UTF-8 too."""
    write(log_path, [line(0), STRANGE["UTF-8"], line(1)])
    shown = answered(logs(*arguments, *([] if arguments == ["export"] else ["--json"])))
    assert [json.loads(row)["prompt"] for row in shown.splitlines()] == ["prompt 0", "é", "prompt 1"]


# --- no log


@pytest.mark.parametrize(
    "arguments", [["tail"], ["search"], ["show", "x"], ["stats"], ["verify"], ["verify", "--repair"], ["export"]]
)
def test_no_log_yet(logs: Run, log_path: Path, arguments: list[str]) -> None:
    """Without a log each command says where it was looked for, exits 1 and makes no file."""
    assert f"there is no log at {log_path} yet" in answered(logs(*arguments), exit_code=1)
    assert not log_path.exists()
