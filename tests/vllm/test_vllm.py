"""A real vLLM behind the service: answers, tools, and what clients see of its queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from faults.loads import Service, eventually, figure

from .conftest import SEATS, VLLM, vllm_server

# Without an end of its own: on a busy machine it takes a minute, on an idle one many seconds.
LONG = '{"ignore_eos": true, "max_tokens": 900}'
QUEUED = 6
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
TOOLS = {"tools": [ADD], "tool_choice": "required", "max_tokens": 60, "temperature": 0}


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[VLLM]:
    """One as it is without further options."""
    with vllm_server(tmp_path_factory.mktemp("vllm"), model) as running:
        yield running


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[VLLM]:
    """One that takes tools, and no more requests than it has room for."""
    tools = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")
    bound = f"--max-num-queued-reqs={SEATS}"
    with vllm_server(tmp_path_factory.mktemp("bounded"), model, *tools, bound) as running:
        yield running


@pytest.fixture
def before(serve: Callable[..., Service]) -> Callable[..., Service]:
    """Return a starter of services in front of a vLLM."""

    def start(behind: VLLM, **settings: object) -> Service:
        return serve(
            **{"LLM_BACKEND": "openai", "OPENAI_BASE_URL": f"{behind.url}/v1", "OPENAI_MODEL": "smollm2"} | settings
        )

    return start


Before = Callable[..., Service]


@contextmanager
def full(behind: VLLM, service: Service) -> Iterator[None]:
    """Be there while streams, which end when this does, take all the room that it has."""
    with ExitStack() as stack:
        for _ in range(SEATS):
            stack.enter_context(service.asking("Tell a story.", stream=True))
        eventually(lambda: behind.count("running") == SEATS)
        yield
    eventually(lambda: behind.count("running") == 0)


def test_it_answers(vllm: VLLM, before: Before) -> None:
    """Whole and piece by piece the same text, with its end and its tokens."""
    service = before(vllm)
    asked = {"prompt": "What is the capital of France?", "temperature": 0, "max_tokens": 24}
    whole, stream = (service.say(**asked, stream=stream) for stream in (False, True))
    assert whole.ok
    assert stream.ok
    assert whole.text
    assert stream.text == whole.text
    lines = eventually(lambda: len(found := service.lines()) == 2 and found)
    assert {line["backend"] for line in lines} == {"openai"}
    assert {line["finish_reason"] for line in lines} <= {"stop", "length"}
    counts = {(line["input_tokens"], line["output_tokens"]) for line in lines}
    assert len(counts) == 1
    assert min(counts) > (0, 0)


def test_tools_without_its_options(vllm: VLLM, before: Before) -> None:
    """It refuses them, and the caller reads which of its options are missing."""
    answer = before(vllm).chat("Add 1.", **TOOLS)
    assert answer.status == 400
    assert "--tool-call-parser" in json.loads(answer.body)["error"]["message"]


def test_tools_with_its_options(bounded: VLLM, before: Before) -> None:
    """A call comes, whole and streamed; what stands in its arguments is this small model's own."""
    service = before(bounded)
    answer = service.chat("Call add with a=1.", **TOOLS)
    assert answer.status == 200, answer.body
    said: dict[str, Any] = json.loads(answer.body)["choices"][0]
    [call] = said["message"]["tool_calls"]
    assert (call["function"]["name"], said["finish_reason"]) == ("add", "tool_calls")
    assert json.loads(call["function"]["arguments"])
    streamed = service.chat("Call add with a=1.", stream=True, **TOOLS).body
    assert b'"tool_calls"' in streamed
    assert streamed.rstrip().endswith(b"data: [DONE]")


def test_it_queues(vllm: VLLM, before: Before) -> None:
    """What it has no room for waits, however much that is: no answer but 200 comes."""
    service = before(vllm, OPENAI_EXTRA_BODY='{"ignore_eos": true, "max_tokens": 100}')
    with ThreadPoolExecutor(SEATS + QUEUED) as clients:
        asked = [clients.submit(service.say, "Tell a story.") for _ in range(SEATS + QUEUED)]
        waiting = max(eventually(lambda: vllm.count("waiting")) for _ in range(3))
        answers = [each.result() for each in asked]
    seconds = sorted(answer.seconds for answer in answers)
    figure("vllm", f"{len(answers)} at once, room for {SEATS}: answered after {seconds[0]:.1f} to {seconds[-1]:.1f} s")
    assert waiting > 0
    assert all(answer.ok for answer in answers)
    assert vllm.statuses() <= {"200", "400"}
    assert {len(line["attempts"]) for line in service.lines()} == {1}


def test_a_full_one_costs_one_wait(vllm: VLLM, before: Before) -> None:
    """A stream that does not begin in time is answered by the next backend, and leaves the queue."""
    service = before(vllm, LLM_FALLBACK="stub", FIRST_CHUNK_TIMEOUT=2, OPENAI_EXTRA_BODY=LONG)
    with full(vllm, before(vllm, OPENAI_EXTRA_BODY=LONG)):
        answer = service.say("Hello", stream=True)
        assert answer.ok
        assert answer.text.startswith("[stub]")
        assert vllm.count("running") == SEATS
        eventually(lambda: vllm.count("waiting") == 0)
    [line] = eventually(lambda: service.lines(backend="stub"))
    figure("vllm", f"a full vLLM: the stub's answer came after {answer.seconds:.1f} s with FIRST_CHUNK_TIMEOUT=2")
    assert (line["fallback"], line["fallback_reason"]) == (True, "timeout")


def test_a_bounded_one_says_so(bounded: VLLM, before: Before) -> None:
    """With --max-num-queued-reqs it answers 503 at once, and so does the next backend."""
    service = before(bounded, LLM_FALLBACK="stub", OPENAI_EXTRA_BODY=LONG)
    with full(bounded, service):
        answers = [service.say("Hello", stream=stream) for stream in (False, True)]
    figure("vllm", f"a bounded vLLM: the stub's answers came after {max(a.seconds for a in answers):.2f} s")
    assert all(answer.ok and answer.text.startswith("[stub]") for answer in answers)
    lines = eventually(lambda: len(found := service.lines(backend="stub")) == 2 and found)
    assert {line["attempts"][0]["outcome"] for line in lines} == {"overloaded"}
    assert "503" in bounded.statuses()


def test_a_client_that_leaves(vllm: VLLM, before: Before) -> None:
    """It computes for nobody who is gone, whether a stream or a whole answer was waited for."""
    service = before(vllm, OPENAI_EXTRA_BODY=LONG)
    for stream in (True, False):
        with service.asking("Tell a story.", stream=stream):
            eventually(lambda: vllm.count("running") == 1)
        eventually(lambda: vllm.count("running") == 0, 5)
    assert len(eventually(lambda: len(found := service.lines(status="aborted")) == 2 and found)) == 2
