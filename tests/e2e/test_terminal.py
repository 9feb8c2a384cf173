"""`flask llm` in a process of its own: on a terminal, in a pipe, until it is interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from records import HOSTILE, ROOT, STEERING, Run, answered, command, environment, line, write

Serve = Callable[..., FlaskClient]
PATIENCE = 60  # seconds; only a broken program lets a wait take them


# --- logs


def logs_on_terminal(log: Path, *arguments: str, **more: str) -> str:
    """Run a command with a terminal of 80 columns as its output; return what it wrote there."""
    ours, theirs = pty.openpty()
    sized = environment(log) | {"COLUMNS": "80", "TERM": "xterm"} | more
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=sized, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65_536):
                shown += data
        except OSError:  # the terminal's other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_tail_has_colours_on_a_terminal_only(make_client: Serve, logs: Run, log_path: Path) -> None:
    """The status is coloured where a person looks, and plain in a pipe, and where NO_COLOR is set."""
    make_client().post("/generate", json={"prompt": "Hello"})
    assert "\x1b[32mok    200\x1b[0m" in logs_on_terminal(log_path, "tail")
    assert "\x1b" not in logs_on_terminal(log_path, "tail", NO_COLOR="1")
    assert "\x1b" not in answered(logs("tail"))


def test_stats_stays_in_its_lines(make_client: Serve, log_path: Path) -> None:
    """A terminal that is too narrow for the tables gets rows that are cut where it ends, not wrapped."""
    make_client().post("/generate", json={"prompt": "Hello"})
    rows = logs_on_terminal(log_path, "stats", COLUMNS="40", NO_COLOR="1").split("\r\n")
    assert max(len(row) for row in rows if "reading the log" not in row) == 40
    assert "backend requests errors aborted fallback" in rows


def test_stats_can_be_shown_in_plain_ascii(make_client: Serve, log_path: Path) -> None:
    """A terminal or a mail that takes only ASCII gets the table, not a traceback."""
    make_client().post("/generate", json={"prompt": "Hello"})
    plain = environment(log_path) | {"PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command("stats"), cwd=ROOT, env=plain, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_long_work_shows_its_progress_on_a_terminal_only(make_client: Serve, logs: Run, log_path: Path) -> None:
    """A person sees a bar; a pipe gets the result alone."""
    make_client().post("/generate", json={"prompt": "Hello"})
    assert "reading the log" in logs_on_terminal(log_path, "stats")
    assert "reading the log" not in answered(logs("stats"))


@pytest.mark.parametrize(
    "arguments",
    ["tail", "tail --json", "search", "show id-0", "show id-0 --curl", "stats", "export", "export --format csv"],
)
def test_a_strangers_text_never_steers_the_terminal(log_path: Path, arguments: str) -> None:
    """Escape sequences, bells, right-to-left marks and a megabyte of them reach no terminal raw."""
    texts = {"prompt": HOSTILE, "system": HOSTILE, "response": HOSTILE * 30_000, "parameters": {"stop": [HOSTILE]}}
    names = {"model": HOSTILE, "request_model": HOSTILE}
    error = {"type": "server_error", "code": HOSTILE, "message": HOSTILE}
    log = [
        line(0, **texts, **names),
        line(1, **texts, **names, status="error", error=error, backend=None, requested_backend=HOSTILE),
    ]
    log.append(HOSTILE.replace("\n", "").encode() + b"\n")
    write(log_path, log)
    shown = logs_on_terminal(log_path, *arguments.split()).replace("\r\n", "\n")
    ours = r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\r"  # colours, and the progress bar's cursor
    assert STEERING.findall(re.sub(ours, "", shown)) == []
    assert "\x1b[2J" not in shown
    assert "\x1b[31m" not in shown.replace("\x1b[31merror", "").replace("\x1b[31m\ufffd", "")


def test_a_command_reads_what_the_service_writes(make_client: Serve, log_path: Path) -> None:
    """`flask --app wsgi llm logs` from a shell reads the LOG_FILE of the environment."""
    make_client().post("/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": "mine"})
    words = command("search", "--json")
    ran = subprocess.run(words, cwd=ROOT, env=environment(log_path), capture_output=True, timeout=60, check=True)
    assert ran.stdout == log_path.read_bytes()


# --- logs tail -f


class Tail:
    """`flask llm logs tail -f --json` in a process of its own."""

    def __init__(self, log: Path, *arguments: str) -> None:
        words = command("tail", "-f", "--json", *arguments)
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment(log),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a shell starts what runs in its background with this signal ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert self.process.stdout
        self._output = self.process.stdout.fileno()
        self._read = b""

    def wait_for_output(self) -> None:
        """Wait until there is something to read; fail after a minute."""
        assert select.select([self._output], [], [], 60)[0], "nothing was printed"

    def ids(self, count: int) -> list[str]:
        """Return the request ids of the next lines."""
        while self._read.count(b"\n") < count:
            self.wait_for_output()
            data = os.read(self._output, 65_536)
            assert data, "the command ended"
            self._read += data
        *lines, self._read = self._read.split(b"\n", count)
        return [json.loads(one)["request_id"] for one in lines]


@pytest.fixture
def tail(log_path: Path) -> Iterator[Callable[..., Tail]]:
    started: list[Tail] = []

    def start(*arguments: str) -> Tail:
        started.append(Tail(log_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_tail_follows_the_service(make_client: Serve, tail: Callable[..., Tail], log_path: Path) -> None:
    """Real requests come out of `tail -f` in order, over a rename and a deletion of the log."""
    client = make_client()
    names = (f"r{n}" for n in range(100))

    def send() -> str:
        name = next(names)
        client.post("/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": name})
        return name

    sent = [send(), send()]
    running = tail("-n", "1")
    assert running.ids(1) == sent[1:]
    sent = [send(), send()]
    assert running.ids(2) == sent
    sent = [send()]
    log_path.rename(log_path.with_name("log.jsonl.1"))
    sent += [send(), send()]
    assert running.ids(3) == sent
    log_path.unlink()
    sent = [send(), send()]
    assert running.ids(2) == sent


def test_tail_misses_nothing_between_the_last_and_the_next(
    make_client: Serve, tail: Callable[..., Tail], log_path: Path
) -> None:
    """A request that comes while the first lines are still being printed is shown after them."""
    write(log_path, [line(n, response="x" * 3000) for n in range(100)])
    running = tail("-n", "100")
    running.wait_for_output()  # it has looked at the file by now, and 300 kB don't fit into the pipe
    make_client().post("/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": "meanwhile"})
    assert running.ids(101) == [*(f"id-{n}" for n in range(100)), "meanwhile"]


def test_tail_ends_quietly_on_interrupt(tail: Callable[..., Tail], log_path: Path) -> None:
    """Ctrl-C is how one leaves `tail -f`: no traceback."""
    write(log_path, [line(0)])
    running = tail()
    assert running.ids(1) == ["id-0"]
    running.process.send_signal(2)
    assert b"Traceback" not in running.process.communicate(timeout=30)[1]


# --- generate


def generate_on_terminal(folder: Path, *args: str, stdin: bool = False) -> tuple[int, bytes, bytes]:
    """Return exit code, stdout, and what a terminal at stderr (and stdin) shows."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flask", "--app", "llm_api", "llm", "generate", *args]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "LLM_BACKEND": "stub", "TERM": "xterm", "FLASK_SKIP_DOTENV": "1"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], PATIENCE)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    stdout, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, stdout, shown


@pytest.mark.parametrize("how", [[], ["--stream"]])
def test_a_sign_of_life(tmp_path: Path, how: list[str]) -> None:
    """A person at a terminal sees that something goes on, and no trace of it is left; stdout has the answer only."""
    code, stdout, shown = generate_on_terminal(tmp_path, "Hello", *how)
    assert (code, stdout.startswith(b"[stub]"), stdout.count(b"\n")) == (0, True, 1)
    assert b"waiting for the model" in shown
    assert shown.endswith(b"\b \b" * len("waiting for the model")), "the words are taken back"


def test_nothing_to_ask(tmp_path: Path) -> None:
    """Without a prompt and without a pipe it does not wait for the keyboard: exit code 2, and what to do."""
    code, stdout, shown = generate_on_terminal(tmp_path, stdin=True)
    assert (code, stdout) == (2, b"")
    assert b"give a prompt, or pipe one in" in shown
