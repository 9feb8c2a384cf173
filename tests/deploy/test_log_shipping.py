"""deploy/rsyslog-*.conf: the log of one machine on another, each line once, whatever happens on the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.loads import eventually, figure

from .parts import DEPLOY, replaced, tool

LINES = 200  # between two events


class Rsyslog:
    """One rsyslogd with one of our files, whose paths and addresses are replaced."""

    def __init__(self, home: Path, name: str, replace: dict[str, str]) -> None:
        self.config = home / name
        self.config.write_text(replaced((DEPLOY / name).read_text(), replace))
        self._pid_file = home / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Fail where rsyslogd has a complaint about the file."""
        ran = subprocess.run([tool("rsyslogd"), "-N1", "-f", self.config], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert "error" not in ran.stderr

    def has_read(self, log: Path) -> bool:
        """Whether it has noted that it is at the end of the log."""
        notes = [path.read_text() for path in (self.config.parent / "spool").glob("imfile-state:*")]
        offsets = re.findall(r'"curr_offs": *(\d+)', "".join(notes))
        return str(log.stat().st_size) in offsets

    def start(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        self._process = subprocess.Popen([tool("rsyslogd"), "-n", "-i", self._pid_file, "-f", self.config])

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, where it is there."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


@dataclass
class Log:
    """The log as the service writes it: by appending, and renamed by logrotate."""

    path: Path
    written: int = 0
    renamed: int = 0

    def write(self, lines: int = LINES) -> None:
        """Append so many numbered lines, one in a hundred of 300 kB."""
        with self.path.open("ab", buffering=0) as file:
            for number in range(self.written, self.written + lines):
                size = 300_000 if number % 100 == 50 else 500
                file.write(json.dumps({"request_id": number, "prompt": "x" * size}).encode() + b"\n")
        self.written += lines

    def rename(self) -> None:
        self.renamed += 1
        self.path.rename(self.path.with_name(f"{self.path.name}.{self.renamed}"))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """The log of the machine that sends."""
    (tmp_path / "logs").mkdir()
    return Log(tmp_path / "logs" / "log.jsonl")


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """The file of the machine that keeps."""
    return tmp_path / "received.jsonl"


@pytest.fixture
def receiver(tmp_path: Path, free_port: int, received: Path) -> Iterator[Rsyslog]:
    """The machine that keeps, before its start."""
    (tmp_path / "received").mkdir()
    replace = {
        "/var/spool/rsyslog": str(tmp_path / "received"),
        "/var/log/llm-api/log.jsonl": str(received),
        "0.0.0.0": "127.0.0.1",
        "2514": str(free_port),
    }
    made = Rsyslog(tmp_path, "rsyslog-receiver.conf", replace)
    yield made
    made.end(signal.SIGKILL)


@pytest.fixture
def sender(tmp_path: Path, free_port: int, log: Log) -> Iterator[Rsyslog]:
    """The machine that sends, before its start."""
    (tmp_path / "spool").mkdir()
    replace = {
        "/srv/llm-api/logs": str(log.path.parent),
        "/var/spool/rsyslog": str(tmp_path / "spool"),
        "logs.example.com": "127.0.0.1",
        "2514": str(free_port),
    }
    made = Rsyslog(tmp_path, "rsyslog-sender.conf", replace)
    yield made
    made.end(signal.SIGKILL)


def came(received: Path) -> Counter[int]:
    """Return how often each line came; each is whole."""
    lines = received.read_bytes().split(b"\n")[:-1] if received.exists() else []
    return Counter(json.loads(line)["request_id"] for line in lines)


def test_each_line_once(sender: Rsyslog, receiver: Rsyslog, log: Log, received: Path) -> None:
    """A receiver that is away, a rename, a kill of the sender, and all at once: each line comes once."""
    everything = lambda: len(came(received)) == log.written  # noqa: E731
    for other in ("log.jsonl.9.gz", "log.jsonl.torn", "log.jsonl.lock"):
        log.path.with_name(other).write_text("not a line of the log\n" * 50)
    for part in (sender, receiver):
        part.check()
        part.start()
    log.write()
    eventually(everything)

    receiver.end()
    log.write()
    log.rename()
    log.write()
    receiver.start()
    eventually(everything)

    eventually(lambda: sender.has_read(log.path))
    sender.end(signal.SIGKILL)
    log.write()
    log.rename()
    log.write()
    sender.start()
    eventually(everything)

    receiver.end()
    log.write()
    eventually(lambda: sender.has_read(log.path))
    sender.end(signal.SIGKILL)
    log.rename()
    log.write()
    receiver.start()
    sender.start()
    eventually(everything, 60)
    figure("rsyslog", f"{log.written} lines, {log.renamed} renames, {came(received).total() - log.written} doubled")
    assert came(received).total() == log.written


def test_kills_in_the_middle(sender: Rsyslog, receiver: Rsyslog, log: Log, received: Path) -> None:
    """Either end killed while lines flow: it goes on by itself, no line is torn, and most come."""
    receiver.start()
    sender.start()
    for number in range(6):
        log.write(100)
        eventually(lambda: log.written - 50 < max(came(received), default=0))
        killed = (sender, receiver)[number % 2]
        killed.end(signal.SIGKILL)
        log.write(50)
        killed.start()
    eventually(lambda: log.written - 1 in came(received), 60)
    found = came(received)
    lost, doubled = log.written - len(found), found.total() - len(found)
    figure("rsyslog", f"6 kills in the flow of {log.written} lines: {lost} lost, {doubled} doubled")
    assert lost < log.written / 10
