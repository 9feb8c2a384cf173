"""The log's files as its readers find them: rotated, gzipped, damaged, and written to meanwhile."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from asking import Serve
from flask import Flask
from records import ROOT, Run, answered, ids, line, write

from llm_api import Settings
from llm_api.log.files import follow, last_lines_of, open_unbuffered
from llm_api.log.writer import RequestLog

BROKEN = b'{"timestamp": 17, "prompt": "cut off he\n'


# --- which files, in which order


@pytest.mark.parametrize(
    "names",
    [
        ["log.jsonl.10.gz", "log.jsonl.2.gz", "log.jsonl.1", "log.jsonl"],
        ["log.jsonl-20261120.gz", "log.jsonl-20261121", "log.jsonl"],
        ["log.jsonl-20261121.gz", "log.jsonl-20261121-1795307200", "log.jsonl"],
        ["log.jsonl-2026-11-20", "log.jsonl.1"],
        ["log.jsonl.1.gz"],
    ],
    ids=" ".join,
)
def test_rotated_files_are_read_oldest_first(logs: Run, log_path: Path, names: list[str]) -> None:
    """Numbers, logrotate's dates and .gz are read in the order of time, the log itself last."""
    for number, name in enumerate(names):
        write(log_path.with_name(name), [line(2 * number), line(2 * number + 1)])
    assert ids(answered(logs("search", "--json"))) == [f"id-{n}" for n in range(2 * len(names))]
    assert json.loads(answered(logs("stats", "--json")))["total"]["requests"] == 2 * len(names)
    assert json.loads(answered(logs("show", "id-0")))["request_id"] == "id-0"


def test_what_is_no_log_is_left_alone(logs: Run, log_path: Path) -> None:
    """What was set aside, a repair's scratch file, and other logs beside it are not read."""
    write(log_path, [line(0)])
    for name in ("log.jsonl.torn", "log.jsonl.1.torn", "log.jsonl.mended", "log.jsonl2", "log.jsonl.bak", "log.json"):
        write(log_path.with_name(name), [line(1)])
    assert ids(answered(logs("search", "--json"))) == ["id-0"]


def test_a_folder_with_a_rotated_files_name_is_left_alone(make_client: Serve, logs: Run, log_path: Path) -> None:
    """Neither the commands nor the dashboard stumble over a folder, nor wait for a pipe."""
    write(log_path, [line(0)])
    log_path.with_name("log.jsonl.1").mkdir()
    log_path.with_name("log.jsonl-20261120.gz").mkdir()
    os.mkfifo(log_path.with_name("log.jsonl.2"))
    for arguments in (["tail", "--json"], ["search", "--json"], ["export"], ["show", "id-0"], ["stats"], ["verify"]):
        answered(logs(*arguments))
    assert ids(answered(logs("search", "--json"))) == ["id-0"]
    assert make_client().get("/dashboard/data").status_code == 200


def test_a_log_may_have_any_name(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    """Brackets in LOG_FILE are no pattern."""
    write(tmp_path / "log[1].jsonl", [line(0)])
    runner = make_app(log_file=str(tmp_path / "log[1].jsonl")).test_cli_runner()
    assert ids(answered(runner.invoke(args=["llm", "logs", "search", "--json"]))) == ["id-0"]


def test_the_services_own_rotation_is_read_whole(make_client: Serve, logs: Run, log_path: Path) -> None:
    """With LOG_MAX_BYTES the requests of all the files come out, in order."""
    client = make_client(log_max_bytes=3000, log_backups=20)
    sent = [f"r{n}" for n in range(20)]
    for name in sent:
        client.post("/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": name})
    assert len(list(log_path.parent.iterdir())) > 3
    assert ids(answered(logs("search", "--json"))) == sent


@pytest.mark.parametrize("command_", [["search", "--json"], ["stats"], ["verify"]], ids=" ".join)
def test_a_gzip_that_is_cut_does_not_hide_the_rest(logs: Run, log_path: Path, command_: list[str]) -> None:
    """While logrotate is compressing, or after it was killed, its half file is named, and the log is read on."""
    whole = gzip.compress(b"".join(map(line, range(2000))))
    log_path.parent.mkdir()
    log_path.with_name("log.jsonl.1.gz").write_bytes(whole[: len(whole) // 2])
    write(log_path, [line(5000)])
    result = logs(*command_)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "log.jsonl.1.gz" in result.output or command_ != ["verify"]
    assert "id-5000" in result.output or command_ != ["search", "--json"]


# --- tail -f


def followed(path: Path, steps: list[Callable[[], object]], count: int) -> list[bytes]:
    """Return the first `count` lines that `follow` yields; each time it waits, the next step is taken."""

    def wait() -> None:
        assert steps, "follow waits for more than there is"
        steps.pop(0)()

    file = open_unbuffered(path) if path.exists() else None
    if file:
        last_lines_of(file, 0)
    return list(islice(follow(path, wait, file), count))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_follow_goes_over_rotation(log_path: Path) -> None:
    """Lines before a rename, after it into the old file, and in the new file come once each, in order."""
    write(log_path, [line(0)])
    old = log_path.with_name("log.jsonl.1")

    def rotate() -> None:
        append(log_path, line(2))
        log_path.rename(old)

    def late() -> None:
        append(old, line(3))
        append(log_path, line(4))

    steps = [lambda: append(log_path, line(1)), rotate, late, lambda: append(log_path, line(5))]
    assert followed(log_path, steps, 5) == [line(n)[:-1] for n in range(1, 6)]


def test_follow_goes_over_deletion(log_path: Path) -> None:
    """A log that is deleted is followed again when it is back, and one that is not there yet when it comes."""
    log_path.parent.mkdir()
    steps = [
        lambda: append(log_path, line(0)),
        log_path.unlink,
        lambda: None,
        lambda: append(log_path, line(1)),
        lambda: (log_path.unlink(), append(log_path, line(2))),
    ]
    assert followed(log_path, steps, 3) == [line(n)[:-1] for n in range(3)]


def test_follow_waits_for_the_end_of_a_line(log_path: Path) -> None:
    """A line that is half written is yielded when it is whole."""
    write(log_path, [line(0)])
    whole = line(1, response="x" * 200_000)
    steps = [lambda: append(log_path, whole[:100_000]), lambda: append(log_path, whole[100_000:])]
    assert followed(log_path, steps, 1) == [whole[:-1]]


@pytest.mark.parametrize("torn_before", [True, False], ids=["before it started", "meanwhile"])
def test_follow_goes_over_a_repair(log_path: Path, torn_before: bool) -> None:
    """A torn tail that a writer cuts off and writes over leaves no rest in the next line."""
    write(log_path, [line(0)])
    tear = [lambda: append(log_path, BROKEN[:-1])]
    if torn_before:
        tear.pop()()
    log = RequestLog(Settings(log_file=str(log_path)))
    steps = [*tear, lambda: log.append({"request_id": "after the repair"}), lambda: append(log_path, line(2))]
    assert followed(log_path, steps, 2) == [b'{"request_id": "after the repair"}', line(2)[:-1]]


def test_follow_goes_over_truncation(log_path: Path) -> None:
    """A log that somebody emptied in place is followed from its beginning."""
    write(log_path, map(line, range(5)))
    steps = [lambda: os.truncate(log_path, 0), lambda: append(log_path, line(9))]
    assert followed(log_path, steps, 1) == [line(9)[:-1]]


# --- verify


def damage(run: Run, *arguments: str, exit_code: int) -> tuple[list[str], list[str]]:
    """Return the file:line of the broken and of the double lines, without the folder."""
    report = json.loads(answered(run("verify", "--json", *arguments), exit_code))
    return tuple([place.rpartition("/")[2] for place in report[kind]] for kind in ("broken", "duplicates"))


def test_verify_passes_a_clean_log(make_client: Serve, logs: Run, log_path: Path) -> None:
    """What the service wrote is without fault, rotated and gzipped files too: exit 0."""
    client = make_client()
    for _ in range(5):
        client.post("/generate", json={"prompt": "Hello"})
    write(log_path.with_name("log.jsonl.1"), [line(1)])
    write(log_path.with_name("log.jsonl.2.gz"), [line(2)])
    assert damage(logs, exit_code=0) == ([], [])
    assert "7 lines, 0 broken" in answered(logs("verify"))


DAMAGE = {
    "torn tail": ([line(0), line(1), BROKEN[:-1]], [3], []),
    "broken line in the middle": ([line(0), BROKEN, line(1)], [2], []),
    "broken first line": ([BROKEN, line(0)], [1], []),
    "broken last line": ([line(0), BROKEN], [2], []),
    "several": ([BROKEN, line(0), b"\n", line(1), b"\x00\xff\n", b"[1]\n", line(2), b"{"], [1, 3, 5, 6, 8], []),
    "NaN": ([line(0), line(1).replace(b"100.0", b"NaN"), line(2)], [2], []),
    "duplicate": ([line(0), line(1), line(0), line(2)], [], [3]),
    "duplicates": ([line(0), line(0), line(1), line(0)], [], [2, 4]),
    "all at once": ([line(0), BROKEN, line(0), BROKEN[:-1]], [2, 4], [3]),
}


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.1", "log.jsonl.2.gz"])
@pytest.mark.parametrize("case", DAMAGE)
def test_verify_finds_damage(logs: Run, log_path: Path, case: str, name: str) -> None:
    """Broken, torn and double lines make it exit 1, each named by file and line."""
    lines, broken, double = DAMAGE[case]
    write(log_path, [line(100)])
    write(log_path.with_name(name), lines)
    places = [f"{name}:{n}" for n in broken], [f"{name}:{n}" for n in double]
    assert damage(logs, exit_code=1) == places
    shown = answered(logs("verify"), exit_code=1)
    assert all(place in shown for place in places[0] + places[1])


def test_verify_finds_a_duplicate_across_files(logs: Run, log_path: Path) -> None:
    """A line that stands in the rotated file and in the log is double: the later one is named."""
    write(log_path.with_name("log.jsonl.1"), [line(0), line(1)])
    write(log_path, [line(1), line(2)])
    assert damage(logs, exit_code=1) == ([], ["log.jsonl:1"])


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.1", "log.jsonl.2.gz"])
@pytest.mark.parametrize("case", [case for case, (_, broken, _) in DAMAGE.items() if broken and case != "NaN"])
def test_repair_sets_broken_lines_aside(logs: Run, log_path: Path, case: str, name: str) -> None:
    """The broken lines move to FILE.torn, all others stay byte for byte, and there is nothing left to find."""
    lines, broken, double = DAMAGE[case]
    file = log_path.with_name(name)
    write(log_path, [line(100)])
    write(file, lines)
    answered(logs("verify", "--repair"), exit_code=bool(double))
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    assert data == b"".join(one for n, one in enumerate(lines, 1) if n not in broken)
    torn = file.with_name(name + ".torn").read_bytes()
    assert torn == b"".join(lines[n - 1].removesuffix(b"\n") + b"\n" for n in broken)
    assert damage(logs, exit_code=bool(double))[0] == []
    assert not list(log_path.parent.glob("*.mended"))


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.1", "log.jsonl.2.gz"])
@pytest.mark.parametrize(
    "foreign", [b"INFO started\n", b"1.2.3.4 - - GET /\n", b'{"level": "info"}\n', b"\ttraceback\n", b"\x1b[31mred\n"]
)
def test_repair_moves_nothing_of_another_program(logs: Run, log_path: Path, name: str, foreign: bytes) -> None:
    """LOG_FILE may name a file that others write to: the command says where, and leaves all as it is."""
    write(log_path, [line(100)])
    file = log_path.with_name(name)
    write(file, [line(0), BROKEN, foreign, line(1)])
    before = file.read_bytes()
    assert f"{name}:3 is another program's" in answered(logs("verify", "--repair"), exit_code=1)
    assert file.read_bytes() == before
    assert sorted(log_path.parent.iterdir()) == sorted({file, log_path})


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.1"])
def test_repair_keeps_a_whole_record_without_its_newline(logs: Run, log_path: Path, name: str) -> None:
    """A last line that parses is a record: it gets its newline, as the service gives it, and is not set aside."""
    write(log_path, [line(100)])
    write(log_path.with_name(name), [line(0), line(1)[:-1]])
    answered(logs("verify", "--repair"))
    assert log_path.with_name(name).read_bytes() == line(0) + line(1)
    assert not log_path.with_name(name + ".torn").exists()


@pytest.mark.parametrize("name", ["log.jsonl.repaired", "log.jsonl.torn"])
def test_repair_follows_no_link(logs: Run, log_path: Path, tmp_path: Path, name: str) -> None:
    """Whoever may write the folder must not choose a file by a link, least of all root's."""
    write(log_path, [line(0), BROKEN, line(1)])
    (tmp_path / "other").write_text("mine")
    log_path.with_name(name).symlink_to(tmp_path / "other")
    assert "can't be locked or repaired" in answered(logs("verify", "--repair"), exit_code=1)
    assert (tmp_path / "other").read_text() == "mine"
    assert log_path.read_bytes() == line(0) + BROKEN + line(1)


def test_repair_adds_to_what_was_set_aside_before(logs: Run, log_path: Path) -> None:
    """An older FILE.torn keeps what it has."""
    write(log_path, [line(0), BROKEN, line(1)])
    write(log_path.with_name("log.jsonl.torn"), [b"older\n"])
    answered(logs("verify", "--repair"))
    assert log_path.with_name("log.jsonl.torn").read_bytes() == b"older\n" + BROKEN


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.1"])
def test_repair_keeps_who_may_read_and_write(logs: Run, log_path: Path, name: str) -> None:
    """The mended file keeps owner and mode, or the service could not write on; nobody new may read LOG.torn."""
    write(log_path, [line(100)])
    file = log_path.with_name(name)
    write(file, [line(0), BROKEN, line(1)])
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 12345, 23456)
    before = file.stat()
    answered(logs("verify", "--repair"))
    after = file.stat()
    assert after.st_ino != before.st_ino, "it was not mended"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert stat.S_IMODE(file.with_name(name + ".torn").stat().st_mode) & 0o007 == 0


def test_a_clean_log_is_not_touched(logs: Run, log_path: Path) -> None:
    """Where nothing is broken --repair rewrites nothing and makes no file, not even a log that isn't there."""
    rotated = log_path.with_name("log.jsonl.1")
    write(rotated, [line(0), line(1)])
    before = rotated.stat()
    answered(logs("verify", "--repair"))
    assert (rotated.stat().st_ino, rotated.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(log_path.parent.iterdir()) == [rotated]


def test_verify_says_so_where_the_log_is_held(logs: Run, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a writer holds the lock for good, --repair says that, instead of a traceback, and changes nothing."""
    monkeypatch.setattr("llm_api.log.writer.LOCK_SECONDS", 0.05)
    data = write(log_path, [line(0), BROKEN, line(1)])
    with log_path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        shown = answered(logs("verify", "--repair"), exit_code=1)
    assert "Error: " in shown
    assert log_path.read_bytes() == data


def test_verify_passes_a_line_that_is_being_written(logs: Run, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last line that has no end when it is read, and has one a moment later, is no damage; an earlier one is."""
    log = RequestLog(Settings(log_file=str(log_path)))
    whole = log.is_torn
    is_torn = RequestLog.is_torn

    def written_meanwhile(log: RequestLog) -> bool:
        append(log_path, line(1)[50:])
        return is_torn(log)

    write(log_path, [line(0), line(1)[:50]])
    assert whole()
    monkeypatch.setattr(RequestLog, "is_torn", written_meanwhile)
    assert damage(logs, exit_code=0) == ([], [])
    write(log_path, [BROKEN, line(0), line(1)[:50]])
    assert damage(logs, exit_code=1) == (["log.jsonl:1"], [])


def test_verify_and_repair_while_writers_append(logs: Run, log_path: Path) -> None:
    """Under writers in threads and in another process no repair loses or doubles a line, and verify sees no damage."""
    log = RequestLog(Settings(log_file=str(log_path)))
    code = (
        "import sys; from llm_api import Settings; from llm_api.log.writer import RequestLog\n"
        "log = RequestLog(Settings(log_file=sys.argv[1]))\n"
        "for n in range(400):\n"
        "    log.append({'timestamp': n, 'duration_ms': 1, 'request_id': f'p{n}', 'response': 'x' * n})"
    )
    threads = [threading.Thread(target=fill, args=(log, name)) for name in "ab"]
    rounds = 0
    with subprocess.Popen([sys.executable, "-c", code, str(log_path)], cwd=ROOT) as process:
        for thread in threads:
            thread.start()
        while rounds < 5 or process.poll() is None or any(thread.is_alive() for thread in threads):
            with log.exclusive() as file:
                os.write(file, BROKEN)
            broken, double = damage(logs, "--repair", exit_code=0)
            assert (len(broken), double) == (1, [])
            rounds += 1
    for thread in threads:
        thread.join()
    assert process.returncode == 0
    assert damage(logs, exit_code=0) == ([], [])
    named = [json.loads(one)["request_id"] for one in log_path.read_bytes().splitlines()]
    assert sorted(named) == sorted(f"{who}{n}" for who in "abp" for n in range(400))
    assert log_path.with_name("log.jsonl.torn").read_bytes() == BROKEN * rounds


def fill(log: RequestLog, name: str) -> None:
    for n in range(400):
        log.append({"timestamp": n, "duration_ms": 1, "request_id": f"{name}{n}", "response": "x" * n})
