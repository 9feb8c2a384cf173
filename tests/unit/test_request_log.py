"""The append protocol (reliability.md, section 1): whole lines or none, through tears, rotation and full disks."""

import contextlib
import errno
import fcntl
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asking import Serve
from flask import Flask
from processes import python
from records import Run, answered

from llm_api import LLMAPI, Settings
from llm_api.errors import ConfigError, LogUnavailable
from llm_api.log import writer as request_log
from llm_api.log.writer import RequestLog

MakeLog = Callable[..., RequestLog]

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def make_log(log_path: Path) -> MakeLog:
    return lambda **settings: RequestLog(Settings(**{"log_file": str(log_path)} | settings))


def numbers(path: Path) -> list[int]:
    """Return the `n` of each line; fail on a line that is not JSON and on a missing last newline."""
    *lines, rest = path.read_bytes().split(b"\n")
    assert rest == b""
    return [json.loads(line)["n"] for line in lines]


def run(code: str, *args: object) -> str:
    """Run Python code in a process of its own; return what it printed."""
    ended = python("-W", "error", "-c", textwrap.dedent(code), *args)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    return ended.stdout


@contextlib.contextmanager
def lock_held_elsewhere(path: Path) -> Iterator[None]:
    """Inside, another process holds the lock on the log."""
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.wait(10)


# --- the line


def test_a_line(make_log: MakeLog, log_path: Path) -> None:
    """One JSON object of ASCII and one newline, whatever the text has in it."""
    text = 'é\n\r\u2028\u2029\x00\x1b"\\\ud800😀'
    make_log().append({"n": 1, "text": text})
    data = log_path.read_bytes()
    assert data.isascii()
    assert (data.count(b"\n"), data[-1:]) == (1, b"\n")
    assert json.loads(data) == {"n": 1, "text": text.replace("\ud800", "\ufffd")}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_not_is_not_written(make_log: MakeLog, log_path: Path, value: float) -> None:
    """NaN would make a line that readers refuse; nothing is written and the next line is well."""
    log = make_log()
    with pytest.raises(ValueError, match="JSON"):
        log.append({"n": value})
    log.append({"n": 2})
    assert numbers(log_path) == [2]


def test_folder_and_mode(make_log: MakeLog, log_path: Path) -> None:
    """The folder is made; the log is nobody's business outside its group, and not inherited by child programs."""
    log = make_log()
    old = os.umask(0)
    try:
        log.append({"n": 1})
    finally:
        os.umask(old)
    assert stat.S_IMODE(log_path.stat().st_mode) == 0o640
    ours = [int(fd.name) for fd in DESCRIPTORS.iterdir() if fd.resolve() == log_path]
    assert [os.get_inheritable(fd) for fd in ours] == [False]


def test_nothing_is_opened_before_the_first_line(make_log: MakeLog, log_path: Path) -> None:
    """gunicorn forks between the making of an app and its first request."""
    make_log()
    assert not log_path.parent.exists()


def test_what_stands_there_stays(make_log: MakeLog, log_path: Path) -> None:
    """An old log is appended to."""
    log_path.parent.mkdir()
    log_path.write_text('{"n": 0}\n')
    make_log().append({"n": 1})
    assert numbers(log_path) == [0, 1]


# --- torn tails

BIG = b'{"timestamp": 1, "n": 7, "text": "' + b"x" * 200_000 + b'"}'


@pytest.mark.parametrize(
    ("tail", "whole"),
    [
        *((tail, True) for tail in (b'{"n": 7}', b'{"n": 7, "a": {"b": [1]}}', BIG)),
        *((tail, False) for tail in (b'{"n": 7', b"{", b'{"n": 7}}', BIG[:-2], b'{"n": 7, "text": "\xc3')),
        *((tail, False) for tail in (b"7", b'"n"', b"[1]", b"null", b" ", b"\x00" * 4096, b"\xff\xfe")),
        (b"[" * 100_000, False),
    ],
    ids=lambda value: repr(value)[:25],
)
@pytest.mark.parametrize("before", [b"", b'{"timestamp": 1, "n": 0}\n'], ids=["alone", "after a line"])
def test_a_torn_tail(make_log: MakeLog, log_path: Path, before: bytes, tail: bytes, whole: bool) -> None:
    """A last line that is whole gets its newline; any other is set aside in LOG.torn, to the byte."""
    log_path.parent.mkdir()
    log_path.write_bytes(before + tail)
    make_log().append({"timestamp": 1, "n": 1})
    torn = log_path.with_name("log.jsonl.torn")
    if whole:
        assert log_path.read_bytes() == before + tail + b'\n{"timestamp": 1, "n": 1}\n'
        assert not torn.exists()
    else:
        assert log_path.read_bytes() == before + b'{"timestamp": 1, "n": 1}\n'
        assert torn.read_bytes() == tail + b"\n"
        assert stat.S_IMODE(torn.stat().st_mode) & 0o007 == 0


def test_torn_tails_are_collected(make_log: MakeLog, log_path: Path) -> None:
    """A second tear does not overwrite the first."""
    log = make_log()
    for tail in (b'{"first', b'{"second'):
        log.append({"timestamp": 1, "n": 1})
        with log_path.open("ab") as file:
            file.write(tail)
    log.append({"timestamp": 1, "n": 1})
    assert log_path.with_name("log.jsonl.torn").read_bytes() == b'{"first\n{"second\n'
    assert numbers(log_path) == [1, 1, 1]


def test_a_tail_that_cannot_be_set_aside_is_not_cut(make_log: MakeLog, log_path: Path) -> None:
    """If LOG.torn can't be written the log stays as it is, and the request is refused."""
    log_path.parent.mkdir()
    log_path.write_bytes(b'{"timestamp": 1, "n": 0}\n{"torn')
    log_path.with_name("log.jsonl.torn").mkdir()
    with pytest.raises(LogUnavailable):
        make_log().append({"timestamp": 1, "n": 1})
    assert log_path.read_bytes() == b'{"timestamp": 1, "n": 0}\n{"torn'


@pytest.mark.parametrize(
    "before",
    [
        b'{"level": "info", "msg": "x"}\n',
        *(
            b"INFO started\n",
            b'INFO started\n{"timestamp": 1, "n": 0}\n',
            b'{"timestamp": 1, "n": 0}\nINFO stopped\n',
            b"1.2.3.4 - - GET /\n" * 9000,
        ),
        *(b'{"timestamp": 1, "n": 0}\n' * many + b'INFO on\n{"timestamp": 1, "n": 0}\n' for many in (1, 20_000)),
    ],
    ids=lambda value: repr(value)[:25],
)
@pytest.mark.parametrize("tail", [b"INFO on its wa", b"\t at x", b'{"n": 7', b"\xff"])
def test_another_programs_log_is_not_mended(make_log: MakeLog, log_path: Path, before: bytes, tail: bytes) -> None:
    """Nothing is cut from a file that has lines of somebody else's."""
    log_path.parent.mkdir()
    log_path.write_bytes(before + tail)
    make_log().append({"timestamp": 1, "n": 1})
    assert log_path.read_bytes() == before + tail + b'\n{"timestamp": 1, "n": 1}\n'
    assert not log_path.with_name("log.jsonl.torn").exists()


@pytest.mark.parametrize("before", [b"", b'{"timestamp": 1, "n": 0}\n'], ids=["alone", "after a line"])
def test_words_without_an_end_are_not_cut(make_log: MakeLog, log_path: Path, before: bytes) -> None:
    """A line of ours begins as an object, however torn: whoever names another file as LOG_FILE keeps what it has."""
    log_path.parent.mkdir()
    log_path.write_bytes(before + b"my notes")
    make_log().append({"timestamp": 1, "n": 1})
    assert log_path.read_bytes() == before + b'my notes\n{"timestamp": 1, "n": 1}\n'


def test_a_long_first_line_is_ours(make_log: MakeLog, log_path: Path) -> None:
    """A prompt may be longer than what is read of it to tell."""
    log_path.parent.mkdir()
    log_path.write_bytes(BIG + b"\n" + BIG[:-2])
    make_log().append({"timestamp": 1, "n": 1})
    assert log_path.read_bytes() == BIG + b'\n{"timestamp": 1, "n": 1}\n'


# --- rotation


def test_rotation_by_rename(make_log: MakeLog, log_path: Path) -> None:
    """After logrotate's rename the next line begins a new file, and the old one is left alone."""
    log = make_log()
    log.append({"n": 1})
    old = log_path.rename(log_path.with_name("log.jsonl.1"))
    log.append({"n": 2})
    assert (numbers(old), numbers(log_path)) == ([1], [2])


def test_rotation_with_create(make_log: MakeLog, log_path: Path) -> None:
    """Where logrotate has created the new file already, it is used."""
    log = make_log()
    log.append({"n": 1})
    old = log_path.rename(log_path.with_name("log.jsonl.1"))
    log_path.touch()
    log.append({"n": 2})
    assert (numbers(old), numbers(log_path)) == ([1], [2])


@pytest.mark.parametrize("what", ["file", "folder"])
def test_deletion(make_log: MakeLog, log_path: Path, what: str) -> None:
    """A log that someone deletes is begun anew; no later line is lost."""
    log = make_log()
    log.append({"n": 1})
    log_path.unlink()
    if what == "folder":
        log_path.parent.rmdir()
    log.append({"n": 2})
    assert numbers(log_path) == [2]


def test_no_descriptor_is_leaked(make_log: MakeLog, log_path: Path) -> None:
    """Rotation closes the old file, or a busy service would run out of descriptors and of disk."""
    log = make_log()
    log.append({"n": 0})
    before = len(list(DESCRIPTORS.iterdir()))
    for n in range(20):
        log_path.unlink()
        log.append({"n": n})
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_own_rotation(make_log: MakeLog, log_path: Path) -> None:
    """LOG_MAX_BYTES: a line that would not fit begins a new file; LOG_BACKUPS old ones are kept, newest first."""
    log = make_log(log_max_bytes=20, log_backups=2)
    for n in range(8):
        log.append({"n": n})
    files = [log_path, *(log_path.with_name(f"log.jsonl.{i}") for i in (1, 2))]
    assert [numbers(path) for path in files] == [[6, 7], [4, 5], [2, 3]]
    assert sorted(log_path.parent.iterdir()) == sorted(files)


def test_a_line_longer_than_the_limit_is_written_all_the_same(make_log: MakeLog, log_path: Path) -> None:
    """It gets a file of its own; it does not rotate for ever."""
    log = make_log(log_max_bytes=20, log_backups=3)
    log.append({"n": 1})
    log.append({"n": 2, "text": "x" * 100})
    log.append({"n": 3})
    assert [numbers(log_path.with_name(f"log.jsonl{end}")) for end in (".2", ".1", "")] == [[1], [2], [3]]


def test_own_rotation_by_two_writers(make_log: MakeLog, log_path: Path) -> None:
    """What one rotates the other notices, under the same lock: nothing is lost, nothing is rotated twice."""
    one, two = (make_log(log_max_bytes=20, log_backups=9) for _ in range(2))
    for n in range(0, 10, 2):
        one.append({"n": n})
        two.append({"n": n + 1})
    files = sorted(log_path.parent.iterdir(), key=lambda path: path.name, reverse=True)
    assert [n for path in files[:-1] for n in numbers(path)] + numbers(files[-1]) == list(range(10))
    assert all(path.stat().st_size <= 20 for path in files)


def test_a_folder_among_the_rotated_files(make_log: MakeLog, log_path: Path) -> None:
    """It keeps its name, the files go round it, and no line is lost."""
    log = make_log(log_max_bytes=20, log_backups=2)
    log_path.with_name("log.jsonl.1").mkdir(parents=True)
    for n in range(4):
        log.append({"n": n, "text": "x" * 20})
    assert [numbers(log_path.with_name(f"log.jsonl{end}")) for end in (".3", ".2", "")] == [[1], [2], [3]]
    assert list(log_path.with_name("log.jsonl.1").iterdir()) == []


# --- standard output


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_the_log_may_be_standard_output(name: str) -> None:
    """Each line comes whole through a pipe, from all threads of all processes, and no file is made for it."""
    printed = run(
        """
        import os, sys, threading
        from llm_api import Settings
        from llm_api.log.writer import RequestLog
        log = RequestLog(Settings(log_file=sys.argv[1], log_max_bytes=10, log_fsync=True))
        log.refuse_what_is_no_file()
        os.fork()
        said = [{"pid": os.getpid(), "n": n, "text": "x" * 2000} for n in range(80)]
        threads = [threading.Thread(target=lambda part=said[i::4]: [log.append(r) for r in part]) for i in range(4)]
        [t.start() for t in threads], [t.join() for t in threads]
        log.check()
        assert log.failure is None
        assert not os.path.exists("-")
        """,
        name,
    )
    lines = [json.loads(row) for row in printed.splitlines()]
    assert sorted(Counter(line["n"] for line in lines).items()) == [(n, 2) for n in range(80)]


@pytest.mark.parametrize("reader", ["asleep", "gone"])
def test_standard_output_that_nobody_reads(make_log: MakeLog, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request hangs: it gets its 503 with the reason, and /health says so, until somebody reads again."""
    monkeypatch.setattr(request_log, "LOCK_SECONDS", 0.05)
    theirs, ours = os.pipe()
    monkeypatch.setattr(request_log, "STDOUT", ours)
    log = make_log(log_file="-")
    if reader == "asleep":
        os.write(ours, bytes(65_536))
    else:
        os.close(theirs)
    with pytest.raises(LogUnavailable, match="nobody reads it" if reader == "asleep" else "Broken pipe"):
        log.append({"n": 1})
    if reader == "asleep":
        log.check()
        assert log.failure
        os.read(theirs, 65_536)
        log.check()
        log.append({"n": 2})
        assert (log.failure, os.read(theirs, 100)) == (None, b'{"n": 2}\n')


@pytest.mark.parametrize("arguments", [["tail"], ["tail", "-f"], ["stats"], ["verify", "--repair"], ["show", "x"]])
def test_readers_say_that_the_log_is_standard_output(logs: Run, make_client: Serve, arguments: list[str]) -> None:
    """Neither a command nor the dashboard waits for lines that have gone elsewhere, or shows zeros for them."""
    for name in ("-", "/dev/stdout"):
        assert "standard output (LOG_FILE=-)" in answered(logs(*arguments, log_file=name), 1)
        for path in ("/dashboard/data", "/dashboard/record/x"):
            answer = make_client(log_file=name).get(path)
            assert (answer.status_code, answer.json["error"]["code"]) == (503, "log_unavailable")


# --- what can't be written


@pytest.mark.parametrize("kind", ["symlink", "broken symlink", "folder", "fifo", "socket", "device"])
def test_what_is_no_file_ends_the_start(make_app: Callable[..., Flask], tmp_path: Path, kind: str) -> None:
    """A pipe would hold up each request, a link may lead anywhere: the start says what LOG_FILE takes."""
    path = tmp_path / "log.jsonl"
    if kind.endswith("symlink"):
        path.symlink_to(tmp_path / "other")
        (tmp_path / "other").touch() if kind == "symlink" else None
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path = Path("/dev/null")
    with pytest.raises(ConfigError, match=rf"^LOG_FILE={path} is no file: name one, or - for standard output$"):
        make_app(log_file=str(path))


def test_a_name_that_no_system_takes_is_told(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    """As a folder that may not be entered: a worker begins all the same, and what is wrong is said to requests."""
    app = make_app(log_file=str(tmp_path / ("x" * 300)))
    LLMAPI.begin(app)
    answer = app.test_client().post("/generate", json={"prompt": "x"})
    assert (answer.status_code, "File name too long" in answer.json["error"]["message"]) == (503, True)


def test_a_pipe_in_the_logs_place_holds_up_nothing(make_log: MakeLog, log_path: Path) -> None:
    """It may have come after the start."""
    log_path.parent.mkdir()
    os.mkfifo(log_path)
    with pytest.raises(LogUnavailable, match=r"log\.jsonl can't be written: it is no file"):
        make_log().append({"n": 1})


@pytest.mark.parametrize("kind", ["link", "pipe", "left over"])
def test_what_stands_where_room_is_tried(make_log: MakeLog, log_path: Path, tmp_path: Path, kind: str) -> None:
    """A link is not followed, a pipe not waited for, and what a killed worker has left is no hindrance."""
    log = make_log()
    log.append({"n": 1})
    probe, other = log_path.with_name("log.jsonl.probe"), tmp_path / "other"
    other.write_text("mine")
    {"link": lambda: probe.symlink_to(other), "pipe": lambda: os.mkfifo(probe), "left over": probe.touch}[kind]()
    log.failure = "the disk is full"
    log.check()
    assert (log.failure, other.read_text(), probe.exists()) == (None, "mine", False)


def test_a_symlink_is_refused(make_log: MakeLog, log_path: Path, tmp_path: Path) -> None:
    """Whoever may write the folder must not make the service append to another file."""
    log_path.parent.mkdir()
    (tmp_path / "other").write_text("precious")
    log_path.symlink_to(tmp_path / "other")
    with pytest.raises(LogUnavailable):
        make_log().append({"n": 1})
    assert (tmp_path / "other").read_text() == "precious"


def test_the_reason_is_told_and_forgotten(make_log: MakeLog, log_path: Path) -> None:
    """`failure` says why, in words without the folder, until a line is written again."""
    log = make_log()
    log_path.parent.write_text("a file where the folder should be")
    with pytest.raises(LogUnavailable) as caught:
        log.append({"n": 1})
    assert (log.failure, log.failures) == ("log.jsonl can't be written: File exists", 1)
    assert caught.value.message.endswith(log.failure)
    log_path.parent.unlink()
    log.append({"n": 2})
    assert (log.failure, log.failures) == (None, 1)


def test_a_log_that_is_not_required(make_client: Serve, log_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With LOG_REQUIRED=false the answer comes and its line goes to stderr; /health says degraded."""
    client = make_client(log_required=False)
    log_path.parent.write_text("a file where the folder should be")
    answer = client.post("/generate", json={"prompt": "x"})
    assert answer.status_code == 200
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["request_id"] == answer.headers["X-Request-ID"]
    health = client.get("/health")
    assert (health.status_code, health.get_json()["status"]) == (200, "degraded")


def test_health_finds_out_that_it_is_over(make_client: Serve, log_path: Path) -> None:
    """Behind a balancer no request would come while /health is 503, so the probe itself tries."""
    client = make_client()
    log_path.parent.write_text("a file where the folder should be")
    assert client.post("/generate", json={"prompt": "x"}).status_code == 503
    log_path.parent.unlink()
    assert client.get("/health").get_json()["status"] == "healthy"
    assert not log_path.exists() or log_path.read_bytes() == b""
    assert list(log_path.parent.glob("*.probe")) == []


def test_a_write_that_fails_halfway_is_cut_back(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line is never left, and the next append succeeds."""
    log = make_log()
    log.append({"n": 1})
    real = os.write
    calls: list[int] = []

    def write_half(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        return real(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_half)
    with pytest.raises(LogUnavailable, match="No space left on device"):
        log.append({"n": 2})
    monkeypatch.undo()
    assert log_path.read_bytes() == b'{"n": 1}\n'
    log.append({"n": 3})
    assert numbers(log_path) == [1, 3]


def test_short_writes_are_completed(make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write may take less than it was given."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    make_log().append({"n": 1, "text": "x" * 100})
    assert numbers(log_path) == [1]


def test_fsync(make_log: MakeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LOG_FSYNC each line is on the disk before `append` returns; without it none is waited for."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    make_log().append({"n": 1})
    assert synced == []
    make_log(log_fsync=True).append({"n": 2})
    assert len(synced) == 1


def test_a_line_that_cannot_be_synced_is_cut_back(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not be on the disk was not logged."""
    log = make_log(log_fsync=True)
    log.append({"n": 1})

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(LogUnavailable):
        log.append({"n": 2})
    assert numbers(log_path) == [1]


FULL_DISK = """
    import json, pathlib, resource, sys
    from llm_api import Settings, create_app
    path = pathlib.Path(sys.argv[1])
    client = create_app(Settings(llm_backend="stub", llm_fallback=(), log_file=str(path))).test_client()
    ask = lambda **body: client.post("/generate", json={"prompt": "x" * 50} | body)
    told = [ask().status_code]
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    refused = ask()
    told += [refused.status_code, refused.get_json()["error"]["code"], refused.headers["Retry-After"]]
    told += [path.stat().st_size == size, client.get("/health").status_code]
    told += [json.loads(ask(stream=True).data.splitlines()[-1])["error"]["code"]]
    told += [path.stat().st_size == size]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told += [ask().status_code, client.get("/health").status_code]
    print(json.dumps(told))
"""


def test_a_full_disk(log_path: Path) -> None:
    """503 while there is no room, the file cut back to whole lines, and well again as soon as there is room."""
    told = json.loads(run(FULL_DISK, log_path))
    assert told == [200, 503, "log_unavailable", "1", True, 503, "log_unavailable", True, 200, 200]
    lines = [json.loads(line) for line in log_path.read_bytes().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "ok"]
    assert not log_path.with_name("log.jsonl.torn").exists()


# --- locks


def test_a_lock_that_is_held_fails_within_the_bound(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped lock holder must not hang the service; when it has gone the next line is written."""
    monkeypatch.setattr("llm_api.log.writer.LOCK_SECONDS", 0.2)
    log = make_log()
    log.append({"n": 1})
    with lock_held_elsewhere(log_path):
        started = time.monotonic()
        with pytest.raises(LogUnavailable, match="another process holds it"):
            log.append({"n": 2})
        assert 0.2 <= time.monotonic() - started < 1.5
    log.append({"n": 3})
    assert numbers(log_path) == [1, 3]


def test_a_crowd_before_a_held_lock_fails_within_the_bound(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads do not wait one after the other: each has the bound for itself."""
    monkeypatch.setattr("llm_api.log.writer.LOCK_SECONDS", 0.3)
    log = make_log()
    log.append({"n": 1})
    waited: list[float] = []

    def append() -> None:
        started = time.monotonic()
        with contextlib.suppress(LogUnavailable):
            log.append({"n": 2})
        waited.append(time.monotonic() - started)

    with lock_held_elsewhere(log_path):
        threads = [threading.Thread(target=append) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(waited) == 8
    assert max(waited) < 1.2
    assert numbers(log_path) == [1]


def test_a_lock_that_comes_free_is_taken(make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bound it is waited for."""
    monkeypatch.setattr("llm_api.log.writer.LOCK_SECONDS", 20)
    log = make_log()
    log.append({"n": 1})
    with lock_held_elsewhere(log_path):
        thread = threading.Thread(target=log.append, args=({"n": 2},))
        thread.start()
    thread.join(20)
    assert numbers(log_path) == [1, 2]


def test_the_lock_is_free_between_lines(make_log: MakeLog, log_path: Path) -> None:
    """After a success and after a failure; another process would else be locked out by an idle one."""
    log = make_log()
    log.append({"n": 1})
    with contextlib.suppress(ValueError):
        log.append({"n": float("nan")})
    with log_path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- threads, processes, forks


def test_many_threads(make_log: MakeLog, log_path: Path) -> None:
    """Every line of every thread is there once, and whole."""
    log = make_log()

    def append(start: int) -> None:
        for n in range(start, start + 25):
            log.append({"n": n, "text": "x" * (n * 37 % 5000)})

    threads = [threading.Thread(target=append, args=(start,)) for start in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(numbers(log_path)) == list(range(200))


PROCESSES = """
    import os, sys
    from llm_api import Settings
    from llm_api.log import writer as request_log
    request_log.LOCK_SECONDS = 40  # waiters take no turns: on a busy machine one of them may lose for seconds
    log = request_log.RequestLog(Settings(log_file=sys.argv[1], log_max_bytes=int(sys.argv[2]), log_backups=1000))
    log.append({"n": 0})  # so that the descriptor exists before the fork
    children = []
    for child in range(4):
        children.append(os.fork())
        if not children[-1]:
            for n in range(30):
                log.append({"n": 1 + child * 30 + n, "text": "x" * (n * 371 % 20_000)})
            os._exit(0)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


@pytest.mark.parametrize("too_long", [None, 3], ids=["all fit", "one does not fit"])
def test_lines_that_wait_are_written_together(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch, too_long: int | None
) -> None:
    """Whoever gets the turn writes the lines of all; where that fails, only who is to blame has no line."""
    log, written = make_log(), []
    log.append({"n": -1})
    write = os.write

    def disk(file: int, data: bytes) -> int:
        written.append(data)
        if f'"n": {too_long}}}'.encode() in data:
            raise OSError(errno.ENOSPC, "full")
        return write(file, data)

    monkeypatch.setattr(os, "write", disk)
    with ThreadPoolExecutor(8) as threads, log.exclusive():
        results = crowd(log, threads, 8)
    refused = [n for n, result in enumerate(results) if isinstance(result.exception(), LogUnavailable)]
    assert refused == ([] if too_long is None else [too_long])
    assert sorted(numbers(log_path)) == sorted({-1, *range(8)} - {too_long})
    assert written[0].count(b"\n") == 8
    assert len(written) == (1 if too_long is None else 9)


def crowd(log: RequestLog, threads: ThreadPoolExecutor, count: int) -> list[Future[bool]]:
    """Let so many threads append; return when all of them wait."""
    results = [threads.submit(log.append, {"n": n}) for n in range(count)]
    while len(log._waiting) < count:
        time.sleep(0)
    return results


def test_a_line_that_another_thread_writes_slowly_is_not_given_up(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits longer than the bound while its line is being written learns what became of it: no 503 has a line."""
    monkeypatch.setattr(request_log, "LOCK_SECONDS", 0.5)
    log, disk = make_log(log_fsync=True), threading.Event()
    gave_up = []
    taken_back = RequestLog._is_in_hand

    def note(log: RequestLog, line: Any) -> bool:
        gave_up.append(taken_back(log, line))
        if len(gave_up) == 3:
            disk.set()
        return gave_up[-1]

    monkeypatch.setattr(RequestLog, "_is_in_hand", note)
    monkeypatch.setattr(os, "fdatasync", lambda file: disk.wait(10))
    with ThreadPoolExecutor(4) as threads, log.exclusive():
        results = crowd(log, threads, 4)
    assert gave_up[:3] == [True] * 3
    assert all(result.result() for result in results)
    assert sorted(numbers(log_path)) == [0, 1, 2, 3]


def test_lines_that_wait_are_held_against_the_limit_each(make_log: MakeLog, log_path: Path) -> None:
    """With LOG_MAX_BYTES no file is longer because several threads waited."""
    log = make_log(log_max_bytes=20, log_backups=10)
    with ThreadPoolExecutor(8) as threads, log.exclusive():
        crowd(log, threads, 8)
    files = sorted(log_path.parent.iterdir())
    assert len(files) == 4
    assert all(file.stat().st_size <= 20 for file in files)


def test_the_log_is_renamed_by_another_while_it_is_renamed(
    make_log: MakeLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who renames the log just before its own rotation does so takes no line along, and fails none."""
    log = make_log(log_max_bytes=10, log_backups=3)
    log.append({"n": 1})
    rename = Path.replace

    def earlier(path: Path, target: Path) -> Path:
        if path == log_path:
            rename(path, log_path.with_name("elsewhere"))
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", earlier)
    assert log.append({"n": 2})
    assert (numbers(log_path.with_name("elsewhere")), numbers(log_path)) == ([1], [2])


@pytest.mark.parametrize("max_bytes", [0, 30_000], ids=["one file", "rotating"])
def test_many_processes_after_a_fork(log_path: Path, max_bytes: int) -> None:
    """Children that inherit the descriptor still exclude each other: every line once and whole, rotation or not."""
    run(PROCESSES, log_path, max_bytes)
    files = list(log_path.parent.iterdir())
    assert sorted(n for path in files for n in numbers(path)) == list(range(121))
    assert (len(files) > 5) == bool(max_bytes)


FORK = """
    import fcntl, os, sys, threading
    from llm_api import Settings
    from llm_api.log import writer as request_log
    log = request_log.RequestLog(Settings(log_file=sys.argv[1]))
    log.append({"n": 1})
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with log.exclusive():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(30)
    request_log.LOCK_SECONDS = 0.2
    child = os.fork()
    if not child:
        try:
            log.append({"n": 2})  # the parent holds the file's lock: this must fail, not pass
        except request_log.LogUnavailable as error:
            os._exit(7 if "another process" in error.message else 8)
        os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    leave.set()
    thread.join()
    child = os.fork()
    if not child:
        log.append({"n": 3})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_while_a_line_is_written(log_path: Path) -> None:
    """The child has neither the parent's thread lock for ever nor a share in its file lock."""
    assert run(FORK, log_path).split() == ["7", "0"]
    assert numbers(log_path) == [1, 3]


# --- secrets

KEY = 'sk-"canary\\0123'


@pytest.mark.parametrize(
    ("secrets", "text"),
    [
        ({"openai_api_key": "sk-canary-0123"}, "my key is sk-canary-0123, or sk-canary-0123!"),
        ({"claude_api_key": KEY}, f"<{KEY}>"),
        ({"hf_api_key": KEY}, KEY * 2),
        ({"ollama_url": "http://user:pw-canary-01@h"}, "http://user:pw-canary-01@h/api"),
        ({"hf_api_key": "sk-canary-0123", "openai_api_key": "sk-canary-0123-and-more"}, "sk-canary-0123-and-more"),
    ],
)
def test_secrets_are_redacted(make_log: MakeLog, log_path: Path, secrets: dict[str, str], text: str) -> None:
    """A key never reaches the file, in whichever field and however JSON escapes it."""
    make_log(**secrets).append({"n": 1, "text": text, "deep": [{"a": (text,)}]})
    assert "canary" not in log_path.read_text()
    assert "and-more" not in log_path.read_text()
    assert "[redacted]" in json.loads(log_path.read_text())["text"]


@pytest.mark.parametrize("key", ["nvapi-0123456789", "u1234-0123456789"])
@pytest.mark.parametrize("character", ["\n", "\u1234", "\\", '"'])
def test_redaction_leaves_valid_json(make_log: MakeLog, log_path: Path, key: str, character: str) -> None:
    """The value is sought in texts, not across their escapes: a line break before it is no part of it."""
    text = character + key.removeprefix("n").removeprefix("u1234")
    make_log(openai_api_key=key).append({"n": 1, "text": text})
    assert json.loads(log_path.read_text())["text"] == text


@pytest.mark.parametrize("key", ["duration_ms", "timestamp"])
def test_redaction_does_not_touch_names(make_client: Serve, log_lines: Any, key: str) -> None:
    """A placeholder of a key that is a field's name must not take the field away."""
    make_client(openai_api_key=key).post("/generate", json={"prompt": "x"})
    assert key in log_lines()[0]


def test_a_log_that_is_dropped_closes_its_file(make_log: MakeLog) -> None:
    """Fifty apps in one process take no more descriptors than one."""

    def open_files() -> int:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - counts, and opens as little as possible

    make_log().append({"n": 0})
    gc.collect()
    before = open_files()
    for n in range(50):
        make_log().append({"n": n})
    gc.collect()
    assert open_files() <= before + 1
