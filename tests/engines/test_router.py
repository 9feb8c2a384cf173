"""vLLM's router before two llama.cpp servers, one of which dies."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

import pytest
from e2e.far_ends import model_process
from faults.loads import CHAT, Service, conversation, eventually, figure

from .conftest import ENVIRONMENT

ASKED = 200
MODEL = "smollm2"


def free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(number)]


def busy(server: str) -> bool:
    """Whether a llama.cpp server computes something."""
    with urllib.request.urlopen(f"{server}/slots") as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


@contextmanager
def router(*servers: str) -> Iterator[str]:
    """Run the router before these servers, which it asks in turn; yield its address."""
    port, metrics = free_ports(2)
    command = [ENVIRONMENT / "bin" / "vllm-router", "--host=127.0.0.1", f"--port={port}", "--policy=round_robin"]
    command += ["--prometheus-host=127.0.0.1", f"--prometheus-port={metrics}", "--log-level=warning"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([*command, "--worker-urls", *servers]) as process:

        def is_up() -> bool:
            assert process.poll() is None
            with suppress(OSError), urllib.request.urlopen(f"{url}/v1/models") as answer:
                return bool(json.load(answer)["data"])
            return False

        try:
            eventually(is_up)
            yield url
        finally:
            process.kill()  # it waits for half a minute for streams that are gone


@pytest.fixture
def servers() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Two llama.cpp servers with two slots each, by their addresses."""
    with ExitStack() as stack:
        both = [stack.enter_context(model_process("llama_server.py")) for _ in range(2)]
        yield {address: process for process, address in both}


def test_a_server_dies(serve: Callable[..., Service], servers: dict[str, subprocess.Popen[str]]) -> None:
    """Of 200 requests none is lost when one of two servers is killed among them."""
    with router(*servers) as url, ThreadPoolExecutor(4) as clients:
        service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=f"{url}/v1", OPENAI_MODEL=MODEL, MAX_RETRIES=2)
        asked = [clients.submit(service.say, f"Say {number}.", max_tokens=4) for number in range(ASKED)]
        for _ in zip(range(ASKED // 4), as_completed(asked), strict=False):
            pass
        dead = next(iter(servers))
        eventually(lambda: busy(dead))
        servers[dead].kill()
        left = ASKED - sum(each.done() for each in asked)
        answers = [each.result() for each in asked]

    lost = [(answer.status, answer.body) for answer in answers if not answer.ok]
    again = sum(len(line["attempts"]) > 1 for line in service.lines())
    slowest = max(answer.seconds for answer in answers)
    figure("router", f"{len(lost)} of {ASKED} lost, {left} after a kill, {again} asked again, slowest {slowest:.2f} s")
    assert left > ASKED / 2
    assert not lost


def test_a_server_dies_in_a_stream(serve: Callable[..., Service], servers: dict[str, subprocess.Popen[str]]) -> None:
    """Streams that the killed server has begun end with an error that says so; the others go on to their end."""
    with router(*servers) as url, ExitStack() as stack:
        service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=f"{url}/v1", OPENAI_MODEL=MODEL, MAX_RETRIES=2)
        streams: list[BinaryIO] = []
        while not all(map(busy, servers)):
            assert len(streams) < 4
            sent = conversation("Tell a long story.") | {"max_tokens": 200}
            _, sock = stack.enter_context(service.asking(stream=True, path=CHAT, **sent))
            streams.append(stack.enter_context(sock.makefile("rb")))
            assert next(line for line in streams[-1] if b'"content"' in line)
        next(iter(servers.values())).kill()
        ends = [stream.read() for stream in streams]

    broken = [end for end in ends if b'"error"' in end]
    figure("router", f"{len(broken)} of {len(ends)} begun streams broken off by the kill, with an error event")
    assert 0 < len(broken) < len(ends)
    assert all((b"data: [DONE]" in end) != (end in broken) for end in ends)
    assert {line["error"]["code"] for line in service.lines(status="error")} == {"invalid_answer"}
