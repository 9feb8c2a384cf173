"""The packaged model's speed through the API and from the bare engine: tokens/s in all, the first token, a fifth turn.

Then the memory of the service with 1, 2 and 8 workers.

Both answer the same prompts in turn. The engine is llama.cpp's own server with the settings that the service gives it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_api.backends.local import model
from llm_api.backends.local.engine import ENVIRONMENT
from llm_api.runtime.cores import usable_cores

from . import harness, services

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
CLIENTS = (1, 4, 8)
TURNS = 5
TURN_CHARS = 1000
WORKERS = (1, 2, 8)
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {services.KEY}"}
ENGINE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.kv_unified = sys.argv[1], 8, 8 * 4096, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
params.warmup, params.verbosity = False, -1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
numbers = itertools.count()


@dataclass(frozen=True)
class Streamed:
    """One answer: its pieces, and the seconds to the first and to the last."""

    pieces: int
    first: float
    whole: float


@contextmanager
def engine() -> Iterator[int]:
    """Run the bare engine on all cores; yield its port."""
    command = [sys.executable, "-c", ENGINE, model.find(None)["model"], str(usable_cores())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | ENVIRONMENT, text=True, **pipes) as process:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(":")[2])
        process.kill()


def service(folder: Path, **settings: str) -> services.Service:
    """Return the service with the model, in an engine of its own."""
    settings |= {"LLM_BACKEND": "huggingface", "XDG_RUNTIME_DIR": str(folder)}
    made = services.ours("local", services.provider(), folder, **settings)
    made.command = (sys.executable, "-m", "gunicorn", "wsgi:app")
    return made


def stream(port: int, messages: list[dict[str, str]], tokens: int) -> Streamed:
    """Read one answer as it comes: both have OpenAI's wire."""
    body = {"model": "default", "stream": True, "max_tokens": tokens, "temperature": 0.7, "seed": next(numbers)}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"messages": messages}), HEADERS)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    arrived = [time.perf_counter() - began for line in answer if _text(line)]
    return Streamed(len(arrived), arrived[0], arrived[-1])


def _text(line: bytes) -> str | None:
    data = line.removeprefix(b"data:").strip()
    choices: list[Any] = json.loads(data)["choices"] if data.startswith(b"{") else []
    return choices[0]["delta"].get("content") if choices else None


def at_once(port: int, clients: int, tokens: int) -> tuple[float, float]:
    """Return the tokens/s of so many clients in all, and the median seconds to a first token."""
    asked = [f"Story {next(numbers)}: write a very long story about a king and a dragon." for _ in range(clients)]
    story = [[SYSTEM, {"role": "user", "content": text}] for text in asked]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda messages: stream(port, messages, tokens), story))
    rate = sum(answer.pieces for answer in answers) / (time.perf_counter() - began)
    return rate, statistics.median(answer.first for answer in answers)


def last_turn(port: int) -> float:
    """Return the seconds to the first token of the fifth turn of a conversation."""
    text = f"Part {next(numbers)} of a story. " * (TURN_CHARS // 20)
    messages = [SYSTEM]
    for _ in range(TURNS):
        messages = [*messages, {"role": "user", "content": text}]
        first = stream(port, messages, 4).first
        messages = [*messages, {"role": "assistant", "content": "Go on."}]
    return first


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy besides."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


def memory(workers: int) -> list[str]:
    """Return a line: the memory of the gunicorn processes and of the engine, in MB, after an answer in each slot."""
    with harness.workshop() as (_, folder), service(folder, WEB_CONCURRENCY=str(workers)).running() as running:
        for _ in range(workers):
            at_once(running.port, max(CLIENTS), 4)
        sizes = [running.memory(), running.children_memory()]
    return [str(workers), *map(harness.number, [*sizes, sum(sizes)])]


def rows(ports: dict[str, int], rounds: int, tokens: int) -> Iterator[list[str]]:
    """Yield the table's lines, each measured in turns."""

    def taken(measure: Callable[[int], Any]) -> list[list[Any]]:
        measures = {who: lambda port=port: measure(port) for who, port in ports.items()}
        return list(harness.interleaved(rounds, measures).values())

    for clients in CLIENTS:
        ours, bare = taken(lambda port, k=clients: at_once(port, k, tokens))
        yield line(f"tokens/s, {clients} at once", [r for r, _ in ours], [r for r, _ in bare], "≥ 0.95")
        yield line(f"first token, {clients} at once, s", [f for _, f in ours], [f for _, f in bare], "≤ 1.1")
    yield line(f"first token of turn {TURNS}, s", *taken(last_turn), "≤ 1.1")
    with busy_core():
        ours, bare = taken(lambda port: at_once(port, 1, tokens))
        yield line("tokens/s, beside a busy core", [r for r, _ in ours], [r for r, _ in bare], "≥ 0.95")


def line(what: str, ours: list[float], bare: list[float], aim: str) -> list[str]:
    """Return one line: both medians, and the median of the rounds' ratios."""
    shown = [harness.number(statistics.median(values)) for values in (ours, bare)]
    return [what, *shown, f"{harness.ratio(ours, bare):.2f} ({aim})"]


def main() -> None:
    """Print the table."""
    short = harness.is_short(__doc__)
    with harness.workshop() as (stack, folder):
        running = service(folder)
        loading = ["from the start to the first answer, s", harness.number(running.start()), "", ""]
        stack.callback(running.stop)
        ports = {"the API": running.port, "the engine alone": stack.enter_context(engine())}
        for port in ports.values():
            at_once(port, 1, 8)  # the first is slower
        table = list(rows(ports, 1 if short else 5, 16 if short else 96))
    head = ["SmolLM2-135M-Instruct", *ports, "ratio (aim)"]
    sizes = list(map(memory, WORKERS))
    memories = harness.table(["workers", "gunicorn, MB (PSS)", "the engine", "in all"], sizes)
    harness.publish("model", harness.table(head, [*table, loading]) + "\n" + memories)


if __name__ == "__main__":
    main()
