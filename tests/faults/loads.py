"""The service under load: real gunicorn, clients that know what they got whole, and what the log has of it."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
FULL = os.environ.get("FAULTS") == "full"
START_SECONDS = 60
CLIENT_SECONDS = 60
# Nothing is retried or answered by another backend, and prompts of up to a megabyte come through, into the log too.
SETTINGS = {
    "BIND": "127.0.0.1:0",
    "LLM_FALLBACK": "none",
    "MAX_RETRIES": "0",
    "MAX_PROMPT_CHARS": "1000000",
    "LOG_MAX_TEXT": "1000000",
    "MAX_BODY_BYTES": "2000000",
}

CHAT = "/v1/chat/completions"

T = TypeVar("T")


def count(small: int, full: int) -> int:
    """Return how many of something a test does: `full` with FAULTS=full."""
    return full if FULL else small


def within(seconds: float) -> float:
    """Return the bound for a figure of `seconds`: that, with FAULTS=full, which takes many samples.

    The p99 of some 70 answers is the slowest of them, and beside other tests on two cores one waits 0.1 s for its turn.
    """
    return seconds if FULL else seconds + 0.4


def figure(number: int | str, text: str) -> None:
    """Print a test's figures."""
    print(f"\nfigure {number}: {text}")


def not_tested(reason: str, *, fail: bool = bool(os.environ.get("CI"))) -> None:
    """Skip; fail where CI is set, since there nothing may be left untested."""
    (pytest.fail if fail else pytest.skip)(f"{reason}: NOT TESTED here")


def eventually(condition: Callable[[], T], seconds: float = 30) -> T:
    """Return what `condition` returns once that is true; fail when it does not become so in time."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > give_up:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.005)
    return value


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Answer:
    """What a client has of an answer; `began` and `ended` are on the monotonic clock."""

    request_id: str
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    stream: bool
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Its JSON objects: the lines of a stream, those that are whole, or the one of a whole answer."""
        return [json.loads(line) for line in self.body.split(b"\n")[:-1]]

    @property
    def whole(self) -> bool:
        """Whether nothing of it is missing; for a stream: whether its `done` line is there."""
        if self.stream and self.status == 200:
            return bool(self.body) and b'"done": true' in self.body[self.body.rfind(b"\n", 0, -1) + 1 :]
        return len(self.body) == int(self.headers["Content-Length"])

    @property
    def code(self) -> str | None:
        """The code of its error, or None."""
        error = self.objects[-1].get("error")
        return error["code"] if error else None

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.whole and self.code is None

    @property
    def text(self) -> str:
        """What it says, as far as it is there."""
        return "".join(said.get("response", "") for said in self.objects)


def conversation(prompt: str) -> dict[str, Any]:
    """Return a body in OpenAI's dialect."""
    return {"model": "default", "messages": [{"role": "user", "content": prompt}]}


class Door:
    """Where requests go in: a port of this machine, or a unix socket. What stands there prints into `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = 0
        self.path: str | None = None
        self.source = "127.0.0.1"

    def output(self) -> str:
        """Return what it has printed so far."""
        return (self.home / "output.txt").read_text()

    def connect(self) -> socket.socket:
        """Return a connection from the address `source`."""
        if not self.path:
            return socket.create_connection(("127.0.0.1", self.port), CLIENT_SECONDS, (self.source, 0))
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(CLIENT_SECONDS)
        sock.connect(self.path)
        return sock

    def ask(
        self, method: str, path: str, body: str | bytes | None = None, *, stream: bool = False, **headers: str
    ) -> Answer:
        """Send a request, and read what comes of the answer; in the names of `headers` _ stands for -.

        Raises OSError or HTTPException where nothing comes.
        """
        connection = http.client.HTTPConnection("127.0.0.1")
        began = time.monotonic()
        try:
            connection.sock = self.connect()
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            with connection.getresponse() as answer:
                data = b""
                # a break of the connection shows in what is missing
                with suppress(ConnectionError, http.client.HTTPException):
                    while part := answer.read1(65_536):
                        data += part
                said_id = answer.headers["X-Request-ID"]
                return Answer(said_id, answer.status, answer.headers, data, stream, began, time.monotonic())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        """GET `path`."""
        return self.ask("GET", path)

    def generate(self, prompt: str = "Hi", *, stream: bool = False, **headers: str) -> Answer:
        """POST /generate, and read what comes of the answer. Raises OSError or HTTPException where nothing does."""
        body = json.dumps({"prompt": prompt, "stream": stream})
        headers = {"Content-Type": "application/json", "X-Request-ID": uuid.uuid4().hex} | headers
        return self.ask("POST", "/generate", body, stream=stream, **headers)

    def say(self, prompt: str = "Hi", *, stream: bool = False, **fields: Any) -> Answer:
        """The same with other fields of the body."""
        return self.post("/generate", {"prompt": prompt, "stream": stream} | fields)

    def chat(self, prompt: str = "Hi", *, stream: bool = False, **fields: Any) -> Answer:
        """The same in OpenAI's dialect."""
        return self.post(CHAT, conversation(prompt) | {"stream": stream} | fields)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Answer:
        """POST a JSON object."""
        headers = {"Content-Type": "application/json", "X-Request-ID": uuid.uuid4().hex} | headers
        return self.ask("POST", path, json.dumps(body), stream=bool(body.get("stream")), **headers)

    def metrics(self, name: str) -> dict[str, float]:
        """Return the samples of a metric by their labels, as they stand in /metrics."""
        samples = re.findall(rf"(?m)^{name}(?:\{{(.*)\}})? (\S+)$", self.get("/metrics").body.decode())
        return {labels: float(value) for labels, value in samples}

    @contextmanager
    def asking(
        self, prompt: str = "Hi", *, stream: bool, path: str = "/generate", **fields: object
    ) -> Iterator[tuple[str, socket.socket]]:
        """POST; the value is the request's id, and the socket whose answer nobody has read."""
        request_id = uuid.uuid4().hex
        body = json.dumps((fields or {"prompt": prompt}) | {"stream": stream})
        head = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            "Connection: close",
            f"X-Request-ID: {request_id}",
            f"Content-Length: {len(body)}",
        ]
        with self.connect() as sock:
            sock.sendall("\r\n".join([*head, "", body]).encode())
            yield request_id, sock


class Service(Door):
    """One gunicorn with the project's own gunicorn.conf.py; nothing of the caller's settings reaches it."""

    def __init__(self, home: Path, settings: dict[str, object], arguments: tuple[str, ...]) -> None:
        super().__init__(home)
        # Links, so that a developer's .env beside the real files is not read.
        for name in ("llm_api", "wsgi.py", "gunicorn.conf.py"):
            (home / name).symlink_to(PROJECT / name)
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")}
        given = {name: str(value) for name, value in settings.items()}
        # Port 0: the system picks a free one, and gunicorn's output says which.
        env = kept | {"HOME": str(home)} | SETTINGS | given
        self._expected = int(env.get("WEB_CONCURRENCY", "2"))
        self.log = home / env.get("LOG_FILE", "logs/log.jsonl")
        app = () if any(argument.endswith(":app") for argument in arguments) else ("wsgi:app",)
        with (home / "output.txt").open("ab") as output:
            command = [sys.executable, "-m", "gunicorn", *arguments, *app]
            self.process = subprocess.Popen(command, cwd=home, env=env, stdout=output, stderr=subprocess.STDOUT)

    def wait_until_up(self) -> None:
        """Return when all workers are there and it answers: its socket accepts before the application is there."""
        eventually(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output()
        found = re.search(r"Listening at: (?:http://127\.0\.0\.1:(\d+)|unix:(\S+))", self.output())
        if not found:
            return False
        self.port, self.path = int(found[1] or 0), found[2]
        with suppress(OSError, http.client.HTTPException):
            return len(self.workers()) == self._expected and self.get("/health/live").status == 200
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its master."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop it and wait for its end."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            workers = self.workers()
            self.process.kill()
            self.process.wait()
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail(f"gunicorn did not stop within 30 s: {self.output()[-2000:]}")

    def workers(self) -> list[int]:
        """Return the ids of its worker processes."""
        return sorted(children(self.process.pid))

    def writers(self) -> list[int]:
        """Return the ids of those workers that have the log open, so have answered since they started."""
        return [pid for pid in self.workers() if str(self.log) in open_files(pid)]

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the log's lines that have these values."""
        records = [json.loads(line) for line in self.log.read_bytes().split(b"\n")[:-1]] if self.log.exists() else []
        return [record for record in records if fields.items() <= record.items()]


def children(pid: int) -> set[int]:
    """Return the ids of a process's children."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def open_files(pid: int) -> set[str]:
    """Return what a process has open: paths, and names such as socket:[1234]."""
    files = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                files.add(str(link.readlink()))
    return files


@contextmanager
def memory_grows_by(service: Service, megabytes: float) -> Iterator[list[float]]:
    """Fail where a worker's memory grows by more at any moment meanwhile; the value is filled with what it was."""
    before = {}
    for pid in service.workers():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM, the most it has ever had, begins anew (proc(5))
        before[pid] = _kilobytes(pid, "VmRSS")
    grown: list[float] = []
    yield grown
    grown += [(_kilobytes(pid, "VmHWM") - before[pid]) / 1000 for pid in service.workers()]
    assert max(grown) <= megabytes


def _kilobytes(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


@contextmanager
def running(home: Path, *arguments: str, **settings: object) -> Iterator[Service]:
    """Run the service in the empty folder `home` with these settings and arguments of gunicorn, and no others."""
    service = Service(home, settings, arguments)
    try:
        service.wait_until_up()
        yield service
    finally:
        service.stop()


def any_prompt() -> str:
    """Return a prompt of 10 characters to 300 kB: most are short, and the long ones take time to write."""
    return "x" * int(10 ** random.uniform(1, 3 if random.random() < 0.7 else 5.5))


@dataclass
class Load:
    """Clients that ask one after another, whole and streamed, while it is entered; each counts what it has whole."""

    service: Door
    clients: int = 4
    prompt: Callable[[], str] = any_prompt
    answers: list[Answer] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._came = threading.Condition()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(self.clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(CLIENT_SECONDS + 5)

    def _ask_on(self) -> None:
        while not self._over.is_set():
            stream = random.random() < 0.4
            began = time.monotonic()
            try:
                answer = self.service.generate(self.prompt(), stream=stream)
            except (OSError, http.client.HTTPException) as error:
                self._note(self.broken, f"{error!r} after {time.monotonic() - began:.3f} s, stream={stream}")
            else:
                if answer.whole:
                    self._note(self.answers, answer)
                else:
                    cut = f"cut after {len(answer.body)} bytes and {answer.seconds:.3f} s, stream={stream}"
                    self._note(self.broken, cut)

    def _note(self, where: list[Any], what: Any) -> None:
        with self._came:
            where.append(what)
            self._came.notify_all()

    def wait_for(self, more: int, wanted: Callable[[Answer], bool] = lambda answer: True, seconds: float = 60) -> None:
        """Return at the very moment when so many more answers that are `wanted` have come."""
        start = len(self.answers)
        with self._came:
            enough = self._came.wait_for(lambda: sum(map(wanted, self.answers[start:])) >= more, seconds)
        assert enough, f"the load stands still: {self.broken[-3:]} {self.service.output()[-2000:]}"

    def refused(self) -> list[Answer]:
        """Return the answers that are errors."""
        return [answer for answer in self.answers if not answer.ok]


@dataclass(frozen=True)
class Tally:
    """What is wrong in a log, by the ids of the answered requests."""

    unlogged: set[str]
    torn: int
    duplicates: set[str]

    def __str__(self) -> str:
        return f"{len(self.unlogged)} unlogged, {self.torn} torn, {len(self.duplicates)} duplicates"

    def __bool__(self) -> bool:
        return bool(self.unlogged or self.torn or self.duplicates)


def ids(*files: Path) -> tuple[Counter[str], int]:
    """Return how often each id stands in the files, gzipped ones too, and how many lines are no record."""
    known: Counter[str] = Counter()
    torn = 0
    for file in files:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for line in lines:
                try:
                    known[json.loads(line)["request_id"]] += 1
                except (ValueError, TypeError, KeyError):
                    torn += 1
                else:
                    torn += not line.endswith(b"\n")
    return known, torn


def tally(answered: Iterable[str], *files: Path) -> Tally:
    """Hold the ids of whole answers against the lines in files."""
    known, torn = ids(*files)
    return Tally(set(answered) - known.keys(), torn, {name for name, times in known.items() if times > 1})


def kill_workers(service: Service, load: Load, kills: int) -> None:
    """Kill -9 workers that have answered, one at a time: at random moments, or just when an answer has come."""
    for _ in range(kills):
        load.wait_for(random.randint(1, 20))
        if random.random() < 0.5:
            time.sleep(random.uniform(0, 0.02))
        os.kill(random.choice(eventually(service.writers)), signal.SIGKILL)
