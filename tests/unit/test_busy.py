"""Busy isn't dead: who is refused for want of a place waits for one; and retries never make an outage's load."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from asking import ask, outcomes
from fakes import END, Clock, Fake
from flask.testing import FlaskClient
from providers import PROVIDERS, FarEnd

from llm_api.errors import Overloaded, RateLimited, ServerError, TimedOut, Unreachable
from llm_api.exchange import attempts, breaker
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk

Serve = Callable[..., FlaskClient]
Log = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(attempts, "LONGEST_PAUSE", 0.05)


def busy(retry_after: float | None = None) -> Overloaded:
    """Return what a server says that will take the request later."""
    error = Overloaded("m", retry_after=retry_after)
    error.busy = True
    return error


def answering(seconds: float, queue: int, refusal: Callable[[], Exception]) -> Callable[[Deadline], None]:
    """Return a piece that works on one request at a time, has `queue` wait, and refuses the others."""
    places, turn = threading.Semaphore(1 + queue), threading.Lock()

    def work(_: Deadline) -> None:
        if not places.acquire(blocking=False):
            raise refusal()
        with turn:
            time.sleep(seconds)  # its work
        places.release()

    return work


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refusal", [busy, lambda: RateLimited("m")], ids=["503", "429"])
def test_all_are_served(serve: Serve, log_lines: Log, stream: bool, refusal: Callable[[], Exception]) -> None:
    """20 clients before a server with a queue of three, as Ollama has it: each has its answer, and nothing opens."""
    one = Fake("one", answering(0.01, 3, refusal), Chunk("one"), END)
    client = serve(one, Fake("two"), max_retries=2, threads=32, request_timeout=30.0)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(client.application.test_client(), stream=stream), range(20)))
    assert [answer.headers.get("X-LLM-Fallback") for answer in answers] == [None] * 20
    assert all(b"one" in answer.data for answer in answers)
    tried = [tried for line in log_lines() for tried in outcomes(line)]
    assert ("one", refusal().code) in tried, "it was crowded"  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [busy(), RateLimited("m")], ids=["503", "429"])
def test_busy_opens_nothing(serve: Serve, error: Exception) -> None:
    """However often it says so."""
    one = Fake("one", turns=[error] * 8)
    client = serve(one, Fake("two"))
    assert [ask(client).headers.get("X-LLM-Fallback") for _ in range(9)] == [error.code] * 8 + [None]  # type: ignore[attr-defined]


def test_busy_for_longer_than_max_retries(serve: Serve, log_lines: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks for patience has it, up to the deadline."""
    monkeypatch.setattr(breaker, "FLOOR", 20)
    one = Fake("one", turns=[busy()] * 7)
    assert ask(serve(one, Fake("two"), max_retries=1)).get_json() == {"response": "one"}
    assert outcomes(log_lines()[0]) == [("one", "overloaded")] * 7 + [("one", "ok")]


def test_busy_to_the_end(serve: Serve, log_lines: Log) -> None:
    """One that never has a place: the fallback answers within the deadline, and why is said."""
    one = Fake("one", *[busy()])
    left: list[float] = []
    two = Fake("two", lambda deadline: left.append(deadline.remaining()), Chunk("two", "stop"))
    answer = ask(serve(one, two, max_retries=2, request_timeout=3.0))
    assert left[0] > 0
    assert (answer.get_json(), answer.headers["X-LLM-Fallback"]) == ({"response": "two"}, "overloaded")
    assert len(one.asked) == 1 + 3, "within the budget"


def test_a_deadline_that_comes_while_it_is_busy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that wakes up too late to ask again does not change why it did not serve."""

    def too_late(deadline: Deadline, seconds: float) -> None:
        raise TimedOut("too late")

    monkeypatch.setattr(Deadline, "wait", too_late)
    answer = ask(serve(Fake("one", busy()), Fake("two"), max_retries=2))
    assert answer.headers["X-LLM-Fallback"] == "overloaded"


def test_no_retries_means_none(serve: Serve) -> None:
    """MAX_RETRIES=0: the fallback is asked at once."""
    one = Fake("one", turns=[busy()])
    assert ask(serve(one, Fake("two"), max_retries=0)).get_json() == {"response": "two"}


def test_retry_after_of_a_busy_server(serve: Serve) -> None:
    """It is waited for, and where it would be too long the fallback answers at once."""
    one = Fake("one", turns=[busy(retry_after=0.2)])
    client = serve(one, Fake("two"), max_retries=2, request_timeout=5.0)
    started = time.monotonic()
    assert ask(client).get_json() == {"response": "one"}
    assert time.monotonic() - started >= 0.2
    one.turns = [busy(retry_after=60)]
    assert ask(client).get_json() == {"response": "two"}


BUSY = [
    "server busy, please try again.  maximum pending requests exceeded",
    "Loading model",
    "Model gpt2 is currently loading",
    "Overloaded",
    "The engine is currently overloaded, please try again later",
    "This model is currently experiencing high demand",
]


@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
@pytest.mark.parametrize("words", BUSY)
def test_servers_that_are_busy(make_client: Serve, far_end: FarEnd, provider: Any, words: str) -> None:
    """What they say with 503, in an object or a text: waited for beyond MAX_RETRIES."""
    for error in (words, {"message": words}, words):
        far_end.post(provider.url, status=503, json={"error": error}, headers={"retry-after-ms": "1"})
    far_end.post(provider.url, json=provider.answer("Hello"))
    assert ask(make_client(**provider.settings, max_retries=1)).get_json() == {"response": "Hello"}


@pytest.mark.parametrize("body", ["", "<h1>503 Service Temporarily Unavailable</h1>", "no healthy upstream"])
def test_a_503_of_a_proxy(make_client: Serve, far_end: FarEnd, body: str) -> None:
    """One before a dead server: asked again MAX_RETRIES times, and left alone after five failures."""
    provider = PROVIDERS[0]
    far_end.post(provider.url, status=503, body=body, headers={"retry-after-ms": "1"})
    client = make_client(**provider.settings, max_retries=1)
    codes = [ask(client).get_json()["error"]["code"] for _ in range(4)]
    assert codes == ["overloaded"] * 3 + ["circuit_open"]
    assert len(far_end.calls) == 5


@pytest.mark.parametrize("clients", [1, 20])
def test_one_dead_node(serve: Serve, log_lines: Log, clients: int) -> None:
    """Every second request behind an address meets a dead node: each has the retry that is due, and nothing opens."""
    turns = count()

    def node(_: Deadline) -> None:
        if next(turns) % 2:
            raise ServerError("dead")
        time.sleep(0.02)  # the other one's work

    client = serve(Fake("one", node, Chunk("one"), END), Fake("two"), max_retries=10, threads=32, request_timeout=30.0)
    assert ask(client).get_json() == {"response": "one"}  # of one that has never answered, five failures may come first
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda _: ask(client.application.test_client()), range(40)))
    assert [answer.headers.get("X-LLM-Fallback") for answer in answers] == [None] * 40
    assert ("one", "server_error") in [tried for line in log_lines() for tried in outcomes(line)]


# The budget


@pytest.mark.parametrize("error", [RateLimited("m"), Unreachable("m"), ServerError("m")], ids=lambda e: e.code)
def test_retries_within_the_budget(serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """An outage gets three retries in ten seconds, or a fifth of the requests, and not twice as many as requests."""
    monkeypatch.setattr("llm_api.exchange.breaker.FAILURES", 1000)
    one = Fake("one", error)
    client = serve(one, Fake("two"), max_retries=2)
    for _ in range(10):
        assert ask(client).get_json() == {"response": "two"}
    assert len(one.asked) == 10 + 3
    for _ in range(90):
        ask(client)
    assert len(one.asked) == 100 + 20


def test_a_budget_of_ten_seconds(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was retried before that is forgotten, and so are the requests."""
    clock = Clock()
    monkeypatch.setattr(breaker, "time", clock)
    budget = breaker.Retries(2)
    for _ in range(100):
        budget.count()
    assert [budget.take() for _ in range(21)] == [True] * 20 + [False]
    clock.now += 10.1
    assert [budget.take() for _ in range(4)] == [True] * 3 + [False]


def test_a_limit_that_others_share(serve: Serve) -> None:
    """A 429 is waited out while the backend answers others; where it answers nobody, MAX_RETRIES are enough."""
    one = Fake("one", turns=[RateLimited("m")] * 3, model="m")
    client = serve(one, Fake("two"), max_retries=1)
    assert ask(client).get_json() == {"response": "two"}
    one.turns.clear()
    ask(client)
    one.turns = [RateLimited("m")] * 2
    assert ask(client).get_json() == {"response": "one"}
