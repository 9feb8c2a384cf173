"""What the benchmarks share: interleaved rounds, ratios, tables, pictures.

Absolute times on a shared machine mean little. So everything that is compared is measured in turn, round after round,
and what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from .services import ENVIRONMENTS, python

RESULTS = ENVIRONMENTS / "results"

T = TypeVar("T")


<<<<<<< HEAD
=======
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
        return sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in self._processes()) / 1e3

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
    command = (_python("tools"), "-m", "bench.provider", "PORT")
    return Service("far end", command, path="/api/chat", body=messages + "false}", streamed=messages + "true}")


def ours(name: str, far_end: Service, folder: Path, **settings: str) -> Service:
    """Return this service with everything on, under its own name in `folder`."""
    return Service(
        name,
        (_python("gevent" if "WORKER_CLASS" in settings else "core"), "-m", "gunicorn", "wsgi:app"),
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
    return Service("bare Flask", (_python("core"), "-m", "gunicorn", *options, *threads, "bench.peers.flask_echo:app"))


def fastapi(far_end: Service, folder: Path) -> Service:
    """Return the hand-made FastAPI service, as fast as uvicorn makes it."""
    options = ("--workers", WORKERS, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", "PORT")
    told = {"OLLAMA_URL": f"http://127.0.0.1:{far_end.port}", "LOG_FILE": str(folder / "fastapi.jsonl")}
    return Service("FastAPI", (_python("fastapi"), "-m", "uvicorn", *options, "bench.peers.fastapi_service:app"), told)


def litellm(far_end: Service, folder: Path) -> Service:
    """Return LiteLLM's proxy in front of the far end's OpenAI wire."""
    config = folder / "litellm.yaml"
    parameters = {"model": "openai/m", "api_base": f"http://127.0.0.1:{far_end.port}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": parameters}]}))
    options = ("--config", config, "--num_workers", WORKERS, "--host", "127.0.0.1", "--port", "PORT")
    body = '{"model": "m", "messages": [{"role": "user", "content": "%s"}]}'
    return Service(
        "LiteLLM", (_python("litellm").with_name("litellm"), *options), path="/v1/chat/completions", body=body
    )


@dataclass(frozen=True)
class Load:
    """What a service did under load: answers per second, seconds, and processor seconds per answer."""

    per_second: float
    p50: float
    p99: float
    cpu: float
    failed: int


def load(service: Service, connections: int, seconds: float, prompt: str = "hello") -> Load:
    """Have wrk ask over and over on that many connections."""
    headers = "".join(f"{name}: {value}\n" for name, value in service.headers.items())
    script = PROJECT / "bench" / "post.lua"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", script]
    used = service.cpu_seconds()
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{service.port}{service.path}"],
        env=os.environ | {"BODY": service.body % prompt, "HEADERS": headers},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    used = service.cpu_seconds() - used
    said = json.loads(done.stdout.splitlines()[-1])
    service.settle()
    good = max(1, said["good"])
    return Load(good / said["seconds"], said["p50"], said["p99"], used / good, said["bad"] + said["broken"])


def seconds_a_call(service: Service, calls: int, prompt: str = "hello") -> float:
    """Return the median time of one call, one after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    return statistics.median(_timed(lambda: _good(service.ask(prompt, connection))) for _ in range(calls))


@dataclass(frozen=True)
class Streamed:
    """The time to a stream's first piece and to its end."""

    first: float
    whole: float


def stream(service: Service, prompt: str) -> Streamed:
    """Read one answer as it comes."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=600)
    began = time.perf_counter()
    connection.request("POST", service.path, service.streamed % prompt, dict(service.headers))
    response = connection.getresponse()
    _good((response.status, response.readline()))
    first = time.perf_counter() - began
    while response.read1(1 << 20):
        pass
    return Streamed(first, time.perf_counter() - began)


def burst(service: Service, clients: int, seconds: float) -> tuple[float, int]:
    """Let all ask at once, each for its own word. Return the seconds until all are done, and who did not get it."""
    began = time.perf_counter()
    right = asyncio.run(_burst(service, clients, seconds))
    took = time.perf_counter() - began
    service.settle()
    return took, clients - right


async def _burst(service: Service, clients: int, seconds: float) -> int:
    return sum(await asyncio.gather(*(_one_of_many(service, n, f"wait={seconds} id={n}") for n in range(clients))))


async def _one_of_many(service: Service, number: int, prompt: str) -> bool:
    body = (service.body % prompt).encode()
    headers = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close", **service.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(f"POST {service.path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        said = b""
        while f'"{number}"'.encode() not in said and (data := await asyncio.wait_for(reader.read(65_536), 90)):
            said += data
        writer.close()
        return said.startswith(b"HTTP/1.1 200") and f'"{number}"'.encode() in said
    except (OSError, TimeoutError):
        return False


>>>>>>> main
def interleaved(rounds: int, measures: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Take each measure once a round, in turn."""
    taken: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(rounds):
        order = list(measures)
        for name in order if number % 2 == 0 else reversed(order):
            taken[name].append(measures[name]())
    return taken


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine() -> str:
    """Return what the figures were taken on."""
<<<<<<< HEAD
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
=======
    with open("/proc/cpuinfo") as file:
        model = next(
            (line.split(": ")[1].strip() for line in file if line.startswith("model name")), platform.machine()
        )
>>>>>>> main
    packages = {"core": ("flask", "gunicorn", "requests"), "gevent": ("gevent",)}
    packages |= {"fastapi": ("fastapi", "uvicorn", "httpx"), "litellm": ("litellm",)}
    versions = [f"{name} {_version(env, name)}" for env, names in packages.items() if _installed(env) for name in names]
    where = f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"
    return f"{time.strftime('%Y-%m-%d')}, {where}; {', '.join(versions)}."


def publish(part: str, text: str) -> None:
    """Print a result, and keep it for the README and docs/bench."""
    print(text, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{part}.md").write_text(text.rstrip() + "\n")


<<<<<<< HEAD
def plot(name: str, x: str, y: str, lines: Mapping[str, Mapping[float, float]], *, log_y: bool = True) -> None:
    """Draw lines over a logarithmic axis."""
=======
def plot(
    name: str, title: str, x: str, y: str, lines: Mapping[str, Mapping[float, float]], *, log_y: bool = True
) -> None:
    """Draw lines over a logarithmic axis into docs/bench."""
>>>>>>> main
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for label, points in lines.items():
        axes.plot(list(points), list(points.values()), marker="o", markersize=4, label=label)
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log" if log_y else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=120)
    pyplot.close(figure)


def is_short(description: str | None) -> bool:
    """Read the command line: --short is a run that only shows that everything works."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--short", action="store_true", help="only show that it works: one round, no figures to quote")
    return bool(parser.parse_args().short)


@contextmanager
def workshop() -> Iterator[tuple[ExitStack, Path]]:
    """Return a stack that ends what is started on it, and a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="llm-api-bench-") as folder, ExitStack() as stack:
        yield stack, Path(folder)


def installed_megabytes(environment: str) -> float:
    """Return the size of what is installed in an environment, without pip's own."""
    folder = next((ENVIRONMENTS / environment / "lib").glob("python3.*")) / "site-packages"
    own = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    files = (file for part in folder.iterdir() if not part.name.startswith(own) for file in (part, *part.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _installed(environment: str) -> bool:
    return python(environment).exists()


def _version(environment: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python(environment), "-c", code], capture_output=True, text=True).stdout.strip()
