"""Tiny transformers models in the engine's process (HF_MODEL=folder): what is no GGUF file."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e.service import LOCAL, Reply, Service, eventually, running, runtime_folder
from e2e.stories import check_stream


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the model `chat`."""
    home = tmp_path_factory.mktemp("transformers")
    with running(home, **LOCAL, HF_MODEL=tiny_models / "chat", MAX_RETRIES=0) as service:
        service.generate("Hello", max_tokens=1)  # loads the model: a test that looks for work must not see that
        yield service


def tokens(folder: Path, text: str) -> int:
    """Count the tokens of a text that is templated already."""
    from tokenizers import Tokenizer

    return len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text))


def at_once(ask: Callable[[int], Reply], count: int) -> list[Reply]:
    """Ask from `count` threads at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_whole_answer(service: Service, tiny_models: Path) -> None:
    """A whole answer has text, the templated prompt's count of tokens, and is cut by max_tokens; only new text."""
    reply = service.generate("Hello", max_tokens=12, details=True, fallback=False)

    assert reply.status == 200, reply.body
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("huggingface", "chat")
    assert reply.body["response"]
    assert "You are a helpful" not in reply.body["response"]
    asked = tokens(tiny_models / "chat", "<|system|>You are a helpful assistant.<|user|>Hello<|assistant|>")
    assert reply.body["details"]["usage"] == {"input_tokens": asked, "output_tokens": 12}
    assert reply.body["details"]["finish_reason"] == "length"


def test_stream(service: Service) -> None:
    """A stream has the whole answer's text and counts, and its first piece comes while the model still works."""
    pieces, last = check_stream(service, prompt="Hello", max_tokens=200, temperature=1, seed=5)
    assert len(pieces) > 5
    assert (last["done"], last["finish_reason"]) == (True, "length")


def test_seed_decides_among_others(service: Service) -> None:
    """Torch's random numbers are one global state; still the same seed gives the same text among other requests."""

    def ask(number: int) -> Reply:
        return service.generate("Hello", max_tokens=16, temperature=1, seed=number // 2)

    texts = [reply.body["response"] for reply in at_once(ask, 8)]

    assert texts[0::2] == texts[1::2]
    assert len(set(texts)) == 4


def test_temperature_zero_is_greedy(service: Service) -> None:
    """Temperature 0, which transformers refuses by that name, gives one answer whatever the seed."""

    def ask(number: int) -> Reply:
        return service.generate("Hello", max_tokens=16, temperature=0, seed=number, fallback=False)

    replies = at_once(ask, 3)

    assert {reply.status for reply in replies} == {200}
    assert len({reply.body["response"] for reply in replies}) == 1


def test_answers_are_made_together(service: Service) -> None:
    """Each has its own limit, sampling and count, and one with a seed is the same among the others as alone."""
    alone = service.generate("Hello", max_tokens=16, temperature=1, seed=7).body["response"]

    def ask(number: int) -> Reply:
        seed = {"seed": 7} if number % 4 == 0 else {}
        limit = 16 if seed else 5 + number
        asked = {"temperature": 1, "top_p": 0.5 + number / 20, "max_tokens": limit} if not seed else {"temperature": 1}
        return service.generate("Hello", **{"max_tokens": limit, **asked, **seed}, details=True, fallback=False)

    replies = at_once(ask, 8)

    assert {reply.status for reply in replies} == {200}
    counts = [reply.body["details"]["usage"]["output_tokens"] for reply in replies]
    assert counts == [16, 6, 7, 8, 16, 10, 11, 12]
    assert {replies[0].body["response"], replies[4].body["response"]} == {alone}


def test_least_temperature(service: Service) -> None:
    """What is divided by it is no number any more; that would have ended all answers of a batch."""
    assert service.generate("Hello", max_tokens=4, temperature=1e-40, fallback=False).status == 200


def test_numbers(service: Service) -> None:
    """/metrics counts the answers' tokens."""

    def tokens() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics") as answer:
            return float(re.search(r"^llm_api_engine_answer_tokens_total (\S+)$", answer.read().decode(), re.M)[1])

    before = tokens()
    service.generate("Hello", max_tokens=9, fallback=False)

    assert tokens() == before + 9


@pytest.mark.parametrize("stream", [False, True])
def test_stop_text_is_cut(service: Service, stream: bool) -> None:
    """The answer ends before the stop text, in whichever pieces it arrives."""
    asked = {"prompt": "Hello", "max_tokens": 40, "temperature": 1, "seed": 3}
    whole = service.generate(**asked).body["response"]
    stop = whole[20:26]
    with service.ask(**asked, stop=stop, stream=stream) as answer:
        *_, last = lines = list(answer.lines())

    assert "".join(line["response"] for line in lines) == whole.partition(stop)[0]
    assert not stream or last["finish_reason"] == "stop"


def test_answer_that_is_cut_is_counted(service: Service) -> None:
    """An answer that a stop text ends has its usage like any other."""
    whole = service.generate("Hello", max_tokens=40, temperature=1, seed=3).body["response"]
    reply = service.generate("Hello", max_tokens=40, temperature=1, seed=3, stop=whole[20:26], details=True)

    usage = reply.body["details"]["usage"]
    assert usage["input_tokens"]
    assert 0 < usage["output_tokens"] <= 40


@pytest.mark.parametrize("stream", [False, True])
def test_context_overflow(service: Service, stream: bool) -> None:
    """A prompt that is too long, which transformers let through, is a 400 with both numbers."""
    reply = service.generate("Hello! " * 3000, max_tokens=1, stream=stream)

    assert reply.status == 400
    assert reply.body["error"]["code"] == "context_length_exceeded"
    asked, context = map(int, re.findall(r"\d+", reply.body["error"]["message"]))
    assert asked > context == 4096


def test_json_mode_is_refused(service: Service) -> None:
    """What this engine can't do is said, not ignored."""
    reply = service.generate("Hello", response_format={"type": "json_object"})

    assert (reply.status, reply.body["error"]["param"]) == (400, "response_format")


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_stops_the_model(service: Service, stream: bool) -> None:
    """A client that leaves gets one `aborted` line, and the model rests and is free for the next request."""
    before = len(service.log(status="aborted"))
    with service.ask("Hello", max_tokens=4000, temperature=1, seed=1, stream=stream) as answer:
        if stream:
            answer.head()
            next(answer.lines())
        else:
            eventually(service.computes)

    eventually(lambda: len(service.log(status="aborted")) == before + 1)
    eventually(lambda: not service.computes())
    assert service.generate("Hello", max_tokens=2, fallback=False).status == 200


def test_template_without_system_role(serve: Callable[..., Service], tiny_models: Path) -> None:
    """Where a template refuses a system message, it goes into the first turn and is not lost."""
    service = serve(**LOCAL, HF_MODEL=tiny_models / "no_system")
    reply = service.generate("Hello", system="The service", max_tokens=4, details=True, fallback=False)

    assert reply.status == 200, reply.body
    asked = tokens(tiny_models / "no_system", "<|user|>The service\n\nHello<|assistant|>")
    assert reply.body["details"]["usage"]["input_tokens"] == asked


def test_model_without_template(serve: Callable[..., Service], tiny_models: Path) -> None:
    """A base model, which has no chat template, goes on with the prompt as it is."""
    service = serve(**LOCAL, HF_MODEL=tiny_models / "no_template")
    reply = service.generate("The quick brown", max_tokens=4, details=True, fallback=False)

    assert reply.status == 200, reply.body
    assert reply.body["response"]
    assert reply.body["details"]["usage"]["input_tokens"] == tokens(tiny_models / "no_template", "The quick brown")


@pytest.mark.parametrize("model", ["chat", "gptj"])
def test_answers_do_not_meet(serve: Callable[..., Service], tiny_models: Path, model: str) -> None:
    """What is made beside others is what it is alone, with a seed: also where a model would mix a batch's answers."""
    service = serve(**LOCAL, HF_MODEL=tiny_models / model)

    def ask(number: int, **seed: int) -> str:
        asked = {"prompt": f"{number} " * number, "max_tokens": 100, "temperature": 0, "fallback": False, **seed}
        return service.generate(**asked).body["response"]

    alone = [ask(number, seed=1) for number in range(1, 7)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, range(1, 7)))

    assert together == alone
    assert len(set(alone)) > 1


def test_bytes_that_are_no_text(serve: Callable[..., Service], tiny_models: Path) -> None:
    """A model may say bytes that are no UTF-8, on which the tokenizer's stream gives up: the answer goes on."""
    service = serve(**LOCAL, HF_MODEL=tiny_models / "bytes")
    asked = {"prompt": "Hello", "max_tokens": 200, "temperature": 2, "details": True, "fallback": False}
    replies = at_once(lambda _: service.generate(**asked), 4)

    assert [reply.body["details"]["usage"]["output_tokens"] for reply in replies] == [200] * 4


def test_its_process_ends_in_order(tiny_models: Path, tmp_path: Path) -> None:
    """When the service has ended, its threads are no cause to abort: nothing is said, nothing is left."""
    with running(tmp_path, **LOCAL, HF_MODEL=tiny_models / "chat") as service:
        service.generate("Hello", max_tokens=1, fallback=False)

    eventually(lambda: not service.engines())
    [output] = runtime_folder(tmp_path).glob("llm-api-*/*/output")
    assert "Traceback" not in output.read_text()
    assert "terminate" not in output.read_text() + service.output()


def test_end_token_ends_the_answer(serve: Callable[..., Service], tiny_models: Path) -> None:
    """The model's own end is `stop`, not `length`."""
    service = serve(**LOCAL, HF_MODEL=tiny_models / "ends")
    details: dict[str, Any] = service.generate("Hello", max_tokens=12, details=True, fallback=False).body["details"]

    assert details["finish_reason"] == "stop"
    assert details["usage"]["output_tokens"] <= 3


def test_broken_folder(require: Callable[..., None], serve: Callable[..., Service], tmp_path: Path) -> None:
    """A folder without a model is a clear error, and the stub answers."""
    require("torch", "transformers")
    service = serve(**LOCAL, HF_MODEL=tmp_path, MAX_RETRIES=0)

    failed = service.generate("Hello", fallback=False)
    answered = service.generate("Hello")

    assert (failed.status, failed.body["error"]["code"]) == (404, "model_not_found")
    assert "HF_MODEL" in failed.body["error"]["message"]
    assert answered.headers["X-LLM-Fallback"] == "model_not_found"
