"""The servers that are compared, each on a free port of this machine: this service, its peers, the far end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

PROJECT = Path(__file__).parents[1]
ENVIRONMENTS = PROJECT / "build" / "bench"
WORKERS = "2"
START_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")
KEY = "a-key-for-benchmarks"
# Everything on that costs something at each request; no request is refused.
EVERYTHING = {"API_KEYS": f"bench:{KEY}", "RATE_LIMIT": "1000000/second", "LLM_FALLBACK": "none"}


@dataclass
class Service:
    """A server on a free port of this machine. `body` is what it is sent, with %s for the prompt."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/generate"
    body: str = '{"prompt": "%s"}'
    streamed: str = '{"prompt": "%s", "stream": true}'
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[Service]:
        """Run it; ready on entry, gone on exit."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> float:
        """Start it; return the seconds to its first answer."""
        began = time.perf_counter()
        command = [str(part).replace("PORT", str(self.port)) for part in self.command]
        environment = os.environ | {"PYTHONPATH": str(PROJECT)} | self.environment | {"BIND": f"127.0.0.1:{self.port}"}
        with tempfile.TemporaryFile() as output:
            self.process = subprocess.Popen(
                command, env=environment, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
            )
            while not self._answers():
                late = time.perf_counter() - began > START_SECONDS
                if late or self.process.poll() is not None:
                    output.seek(0)
                    self.stop()
                    sys.exit(f"{self.name} does not start:\n{output.read().decode()[-3000:]}")
                time.sleep(0.005)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.ask("hello")[0] == 200
        return False

    def stop(self) -> None:
        """End it, kindly first."""
        assert self.process
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal_number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)

    def ask(self, prompt: str, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
        """Return the status and body of one answer."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", self.path, self.body % prompt, dict(self.headers))
        response = connection.getresponse()
        return response.status, response.read()

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used so far."""
        return sum(map(_cpu_seconds, self._processes()))

    def memory(self) -> float:
        """Return its memory in MB, shared pages counted once (PSS)."""
        return sum(self.memories())

    def memories(self) -> list[float]:
        """Return the memory of each of its processes in MB (PSS)."""
        return [_kilobytes(pid, "smaps_rollup", "Pss:") / 1e3 for pid in self._processes()]

    def children_memory(self) -> float:
        """Return the memory in MB (PSS) of what its processes have begun in a session of its own: a model's engine."""
        ours = self._processes()
        begun = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) in ours]
        return sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in begun if pid not in ours) / 1e3

    def peak_memory(self) -> float:
        """Return the most memory its processes ever had, in MB (the sum of their RSS)."""
        return sum(_kilobytes(pid, "status", "VmHWM:") for pid in self._processes()) / 1e3

    def _processes(self) -> list[int]:
        assert self.process
        found, group = [], self.process.pid
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getpgid(int(folder.name)) == group:
                    found.append(int(folder.name))
        return found

    def settle(self) -> None:
        """Wait until it has worked off what the last load left: it would slow down whoever is measured next."""
        give_up, before = time.monotonic() + 20, -1.0
        while (now := self.cpu_seconds()) - before > 0.01 and time.monotonic() < give_up:
            before = now
            time.sleep(0.2)


def provider() -> Service:
    """Return the far end; started first, since the others are told where it is."""
    messages = '{"model": "m", "messages": [{"role": "user", "content": "%s"}], "stream": '
    command = (python("tools"), "-m", "bench.provider", "PORT")
    return Service("far end", command, path="/api/chat", body=messages + "false}", streamed=messages + "true}")


def ours(name: str, far_end: Service, folder: Path, **settings: str) -> Service:
    """Return this service with everything on, under its own name in `folder`."""
    return Service(
        name,
        (python("core"), "-m", "gunicorn", "wsgi:app"),
        {
            "LLM_BACKEND": "ollama",
            "OLLAMA_URL": f"http://127.0.0.1:{far_end.port}",
            "LOG_FILE": str(folder / f"{name}.jsonl"),
            "WEB_CONCURRENCY": WORKERS,
            **EVERYTHING,
            **settings,
        },
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )


def flask_echo() -> Service:
    """Return Flask alone, as gunicorn runs it by default but for its threads."""
    options = ("-c", "python:gunicorn.config", "--no-control-socket", "--bind", "127.0.0.1:PORT", "--workers", WORKERS)
    threads = ("--worker-class", "gthread", "--threads", "64")
    return Service("bare Flask", (python("core"), "-m", "gunicorn", *options, *threads, "bench.peers.flask_echo:app"))


def chat(far_end: Service, folder: Path) -> Service:
    """Return this service as OpenAI's clients speak to it, in front of OpenAI's wire."""
    told = {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": f"http://127.0.0.1:{far_end.port}/v1"}
    body = '{"model": "default", "messages": [{"role": "user", "content": "%s"}], "stream": '
    spoken = {"path": "/v1/chat/completions", "body": body + "false}", "streamed": body + "true}"}
    return replace(ours("/v1 before /v1", far_end, folder, **told), **spoken)


def pass_through(far_end: Service) -> Service:
    """Return the bare WSGI app that hands a stream on, under gunicorn as bare Flask is."""
    told = {"FAR_END": f"http://127.0.0.1:{far_end.port}{far_end.path}"}
    app = replace(flask_echo(), name="bare WSGI", environment=told, body=far_end.body, streamed=far_end.streamed)
    return replace(app, command=(*app.command[:-1], "bench.peers.pass_through:app"))


def fastapi(far_end: Service, folder: Path) -> Service:
    """Return the hand-made FastAPI service, as fast as uvicorn makes it."""
    options = ("--workers", WORKERS, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", "PORT")
    told = {"OLLAMA_URL": f"http://127.0.0.1:{far_end.port}", "LOG_FILE": str(folder / "fastapi.jsonl")}
    return Service("FastAPI", (python("fastapi"), "-m", "uvicorn", *options, "bench.peers.fastapi_service:app"), told)


def litellm(far_end: Service, folder: Path) -> Service:
    """Return LiteLLM's proxy in front of the far end's OpenAI wire."""
    config = folder / "litellm.yaml"
    parameters = {"model": "openai/m", "api_base": f"http://127.0.0.1:{far_end.port}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": parameters}]}))
    options = ("--config", config, "--num_workers", WORKERS, "--host", "127.0.0.1", "--port", "PORT")
    body = '{"model": "m", "messages": [{"role": "user", "content": "%s"}]}'
    return Service(
        "LiteLLM",
        (python("litellm").with_name("litellm"), *options),
        {"LITELLM_MASTER_KEY": f"sk-{KEY}"},  # it does not start without one
        path="/v1/chat/completions",
        body=body,
        headers={"Content-Type": "application/json", "Authorization": f"Bearer sk-{KEY}"},
    )


def python(environment: str) -> Path:
    """Return the interpreter of one of the environments that make bench makes."""
    return ENVIRONMENTS / environment / "bin" / "python"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / TICKS
    return 0.0


def _parent(stat: Path) -> int:
    with suppress(OSError):
        return int(stat.read_text().rpartition(")")[2].split()[1])
    return 0


def _kilobytes(pid: int, file: str, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
