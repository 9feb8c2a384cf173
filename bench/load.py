"""Load: from wrk where it is much, from here where each answer is looked at."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .services import PROJECT, Service


def require_wrk() -> None:
    """End here where the load generator is missing."""
    if not shutil.which("wrk"):
        sys.exit("wrk is needed to make the load: apt-get install wrk")


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


def cpu_a_piece(service: Service, pieces: int, gap: float) -> float:
    """Return the processor time that a piece of a stream costs the service, four streams at once."""
    used = service.cpu_seconds()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: stream(service, f"tokens={pieces} gap={gap}"), range(8)))
    return (service.cpu_seconds() - used) / (8 * pieces)


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


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _good(answer: tuple[int, bytes]) -> None:
    if answer[0] != 200:
        sys.exit(f"an answer of {answer[0]}: {answer[1][:500]!r}")
