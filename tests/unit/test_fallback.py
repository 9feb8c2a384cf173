"""Who is asked, in which order and how often, and that a fallback is never silent."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from asking import Log, Serve, ask, lines_of
from fakes import END, FAILURES, PATIENCE, Clock, Fake, Turn
from flask.testing import FlaskClient

from llm_api.errors import (
    BackendError,
    BadCredentials,
    InvalidAnswer,
    LLMAPIError,
    ModelNotFound,
    NotConfigured,
    Overloaded,
    ParameterDropped,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    ServerError,
    TimedOut,
    Unreachable,
)
from llm_api.exchange.breaker import MAX_MODELS, Breaker
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk, GenerationRequest

AT_ONCE = 0.001  # a Retry-After that tests need not wait for


REASONS = [(error, code) for error, _, code, _ in FAILURES]


@pytest.mark.parametrize(("error", "reason"), REASONS)
@pytest.mark.parametrize("stream", [False, True])
def test_every_reason_is_told_everywhere(
    serve: Serve, log_lines: Log, error: BackendError, reason: str, stream: bool
) -> None:
    """Header, details and log name the backend that answered and the same reason code, streams too."""
    answer = ask(serve(Fake("one", turns=[error]), Fake("two")), stream=stream, details=True)
    last = json.loads(answer.data.splitlines()[-1])
    (line,) = log_lines()
    assert answer.status_code == 200
    assert (answer.headers["X-LLM-Backend"], answer.headers["X-LLM-Model"]) == ("two", "two-model")
    assert answer.headers["X-LLM-Fallback"] == reason
    for told in (last["details"], line):
        assert (told["backend"], told["model"]) == ("two", "two-model")
        assert (told["fallback"], told["fallback_reason"]) == (True, reason)
    assert (line["requested_backend"], line["status"], line["http_status"], line["error"]) == ("one", "ok", 200, None)
    assert [(a["backend"], a["outcome"]) for a in line["attempts"]] == [("one", reason), ("two", "ok")]
    assert all(0 <= a["duration_ms"] < 10_000 for a in line["attempts"])


def test_begun_fallbacks_are_counted_in_one_warning_a_minute(
    serve: Serve, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is said at once; a minute later, how many have begun since, with the last reason."""
    monkeypatch.setattr("llm_api.exchange.chain.time", clock)
    turns = [BadCredentials("m")] * 3 + [ModelNotFound("m", param="model")] * 3
    client = serve(Fake("one", turns=turns), Fake("two"))
    for seconds in (0, 1, 58, 1, 1, 0):
        clock.now += seconds
        assert ask(client).get_json() == {"response": "two"}
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "one could not serve (bad_credentials), and two answers in its place: 1 since the last such line"),
        ("WARNING", "one could not serve (model_not_found), and two answers in its place: 3 since the last such line"),
    ]


def test_the_configured_backend_is_no_fallback(serve: Serve, log_lines: Log) -> None:
    """Where the first of the chain answers no other is asked, and nothing speaks of a fallback."""
    two = Fake("two")
    answer = ask(serve(Fake("one"), two), details=True)
    (line,) = log_lines()
    assert "X-LLM-Fallback" not in answer.headers
    assert answer.get_json()["response"] == "one"
    for told in (answer.get_json()["details"], line):
        assert (told["fallback"], told["fallback_reason"]) == (False, None)
    assert two.asked == []


def test_the_chain_is_asked_in_its_order(serve: Serve, log_lines: Log) -> None:
    """The third is asked after the second; the reason told is that of the configured backend."""
    client = serve(
        Fake("one", turns=[Overloaded("m")]), Fake("two", turns=[BadCredentials("m")]), Fake("three"), Fake("four")
    )
    answer = ask(client)
    assert answer.get_json() == {"response": "three"}
    assert (answer.headers["X-LLM-Backend"], answer.headers["X-LLM-Fallback"]) == ("three", "overloaded")
    attempts = [(a["backend"], a["outcome"]) for a in log_lines()[0]["attempts"]]
    assert attempts == [("one", "overloaded"), ("two", "bad_credentials"), ("three", "ok")]


def test_silence_is_no_beginning(serve: Serve) -> None:
    """A stream of which nothing has come but silence when it fails goes to the next backend."""
    one, two = Fake("one", turns=[(Chunk(), Overloaded("m"))]), Fake("two")
    assert ask(serve(one, two), stream=True).headers["X-LLM-Fallback"] == "overloaded"


def test_a_backend_named_twice_is_asked_once(serve: Serve) -> None:
    """A fallback list that names the configured backend itself does not ask it again."""
    one, two = Fake("one", turns=[BadCredentials("m")]), Fake("two")
    assert ask(serve(one, two, llm_fallback=("one", "two"))).get_json() == {"response": "two"}
    assert len(one.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_error_is_told_when_nothing_serves(serve: Serve, log_lines: Log, stream: bool) -> None:
    """The client and the log get the configured backend's error, not the last one's."""
    answer = ask(
        serve(Fake("one", turns=[BadCredentials("first")]), Fake("two", turns=[Overloaded("second")])), stream=stream
    )
    (line,) = log_lines()
    assert (answer.status_code, answer.get_json()["error"]["message"]) == (502, "first")
    assert "X-LLM-Fallback" not in answer.headers
    assert (line["error"]["code"], line["error"]["message"]) == ("bad_credentials", "first")
    assert (line["backend"], line["fallback"], line["response"]) == (None, False, None)


@pytest.mark.parametrize(
    ("settings", "body"), [({"llm_fallback": ()}, {}), ({}, {"fallback": False})], ids=["none", "fallback: false"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_fallback_can_be_switched_off(
    serve: Serve, log_lines: Log, settings: dict[str, Any], body: dict[str, Any], stream: bool
) -> None:
    """By LLM_FALLBACK=none or by the request: a failing backend is then an error, and no other is asked."""
    two = Fake("two")
    answer = ask(serve(Fake("one", turns=[Unreachable("m")]), two, **settings), stream=stream, **body)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "unreachable")
    assert two.asked == []
    assert [a["backend"] for a in log_lines()[0]["attempts"]] == ["one"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_request_does_not_fall_back(serve: Serve, log_lines: Log, stream: bool) -> None:
    """What one backend says is wrong with the request is the client's 400, with code and field."""
    two = Fake("two")
    refused = RequestRefused("refused", code="context_length_exceeded", param="prompt")
    answer = ask(serve(Fake("one", turns=[refused]), two, max_retries=2), stream=stream)
    assert answer.status_code == 400
    assert answer.get_json()["error"] == {
        "message": "refused",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
        "param": "prompt",
    }
    assert two.asked == []
    assert [a["outcome"] for a in log_lines()[0]["attempts"]] == ["context_length_exceeded"]


def test_a_fallback_that_refuses_does_not_hide_the_reason(serve: Serve) -> None:
    """A stub without JSON must not turn "ollama is down" into "your request is wrong"."""
    answer = ask(serve(Fake("one", turns=[Unreachable("down")]), Fake("two", turns=[RequestRefused("no JSON here")])))
    assert (answer.status_code, answer.get_json()["error"]["message"]) == (503, "down")


def test_a_model_name_means_something_to_the_configured_backend_only(serve: Serve, log_lines: Log) -> None:
    """The fallback gets its own model; the log keeps what was asked for."""
    one, two = Fake("one", turns=[Unreachable("m")]), Fake("two")
    answer = ask(serve(one, two), model="special")
    assert (one.asked[0].model, two.asked[0].model) == ("special", None)
    assert answer.headers["X-LLM-Model"] == "two-model"
    assert (log_lines()[0]["request_model"], log_lines()[0]["model"]) == ("special", "two-model")


def test_a_whole_answer_that_breaks_off_falls_back(serve: Serve) -> None:
    """Nothing has been sent yet, so no half answer is either: only the fallback's text comes."""
    client = serve(Fake("one", turns=[[Chunk("half"), ServerError("m")]]), Fake("two"))
    assert ask(client).get_json() == {"response": "two"}


@pytest.mark.parametrize("turn", [[], [Chunk("half")]], ids=["empty", "cut short"])
def test_an_answer_without_its_end_is_none(serve: Serve, turn: Turn) -> None:
    """A whole answer that stops before a finish reason is never reported complete."""
    answer = ask(serve(Fake("one", turns=[turn]), Fake("two")))
    assert (answer.get_json(), answer.headers["X-LLM-Fallback"]) == ({"response": "two"}, "invalid_answer")


def test_a_stream_never_changes_its_backend(serve: Serve, log_lines: Log) -> None:
    """After the first chunk a failure is an error line, and never another backend's text."""
    two = Fake("two")
    answer = ask(serve(Fake("one", turns=[[Chunk("half"), ServerError("broke")]]), two), stream=True)
    first, last = map(json.loads, answer.data.splitlines())
    assert first == {"response": "half"}
    assert (last["done"], last["error"]["message"]) == (True, "broke")
    assert two.asked == []
    assert (log_lines()[0]["backend"], log_lines()[0]["response"]) == ("one", "half")


# --- retries


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_a_backend_is_asked_again_max_retries_times(serve: Serve, log_lines: Log, retries: int, asked: int) -> None:
    """Each try is an attempt in the log; then the next backend is asked."""
    one = Fake("one", turns=[RateLimited("m", retry_after=AT_ONCE)] * 10)
    answer = ask(serve(one, Fake("two"), max_retries=retries))
    assert answer.headers["X-LLM-Fallback"] == "rate_limited"
    assert len(one.asked) == asked
    assert [a["backend"] for a in log_lines()[0]["attempts"]] == ["one"] * asked + ["two"]


def test_a_retry_that_succeeds_is_no_fallback(serve: Serve, log_lines: Log) -> None:
    """The configured backend answered in the end."""
    answer = ask(serve(Fake("one", turns=[Overloaded("m", retry_after=AT_ONCE)]), Fake("two"), max_retries=2))
    assert (answer.get_json(), answer.headers.get("X-LLM-Fallback")) == ({"response": "one"}, None)
    assert [a["outcome"] for a in log_lines()[0]["attempts"]] == ["overloaded", "ok"]


@pytest.mark.parametrize(
    "error",
    [
        *(TimedOut("m"), QuotaExhausted("m"), BadCredentials("m"), ModelNotFound("m"), InvalidAnswer("m")),
        *(NotConfigured("m"), RequestRefused("m")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_fail_again_is_not_retried(serve: Serve, error: Exception) -> None:
    """Above all a read timeout: the POST may have been executed."""
    one = Fake("one", turns=[error] * 3)
    ask(serve(one, max_retries=2))
    assert len(one.asked) == 1


@pytest.mark.parametrize(
    ("retry_after", "asked"), [(AT_ONCE, 2), (4.9, 1), (5.1, 1), (119, 1), (121, 1)], ids=lambda value: str(value)
)
def test_retries_are_bounded_by_the_deadline(serve: Serve, retry_after: float, asked: int) -> None:
    """A pause that would not end before the deadline's share is not begun: the fallback is asked at once."""
    one = Fake("one", turns=[RateLimited("m", retry_after=retry_after)])
    started = time.monotonic()
    answer = ask(serve(one, Fake("two"), max_retries=2, request_timeout=5.0))
    assert time.monotonic() - started < 2
    assert answer.get_json() == {"response": "two" if asked == 1 else "one"}
    assert len(one.asked) == asked


def test_no_retry_after_longer_than_the_sdks_grant(serve: Serve) -> None:
    """More than 120 s is not waited for, however long the deadline is."""
    one = Fake("one", turns=[RateLimited("m", retry_after=121)])
    assert ask(serve(one, Fake("two"), max_retries=2, request_timeout=3600.0)).get_json() == {"response": "two"}
    assert len(one.asked) == 1


def test_a_dropped_parameter_costs_no_retry(serve: Serve) -> None:
    """A backend that has noted which parameter to leave out is asked again at once, even with no retries allowed."""
    one = Fake("one", turns=[ParameterDropped("m")])
    assert ask(serve(one, max_retries=0)).get_json() == {"response": "one"}
    assert len(one.asked) == 2


# --- the deadline


def hanging(clock: Clock, seen: list[float]) -> Callable[[Deadline], None]:
    """Return a turn that notes the time left and uses it all up."""

    def hang(deadline: Deadline) -> None:
        seen.append(round(deadline.remaining(), 6))
        clock.now += deadline.remaining()
        deadline.check()

    return hang


def test_the_deadline_keeps_a_share_for_each_fallback(serve: Serve, clock: Clock) -> None:
    """One that hangs leaves a tenth of REQUEST_TIMEOUT to each behind it."""
    seen: list[float] = []
    client = serve(
        *(Fake(name, turns=[hanging(clock, seen)]) for name in ("one", "two")), Fake("three"), request_timeout=100.0
    )
    answer = ask(client)
    assert (answer.get_json(), answer.headers["X-LLM-Fallback"]) == ({"response": "three"}, "timeout")
    assert seen == [80, 10]


@pytest.mark.parametrize(("fallback", "seconds"), [(True, 90), (False, 100)])
def test_nothing_is_kept_for_whom_nobody_asks(serve: Serve, clock: Clock, fallback: bool, seconds: float) -> None:
    """With `fallback: false` the configured backend has the whole time, and its timeout is a 504."""
    seen: list[float] = []
    one = Fake("one", turns=[hanging(clock, seen)])
    answer = ask(serve(one, Fake("two"), request_timeout=100.0), fallback=fallback)
    assert seen == [seconds]
    assert answer.status_code == (200 if fallback else 504)


def test_everything_hangs(serve: Serve, clock: Clock) -> None:
    """The request ends at REQUEST_TIMEOUT, with the configured backend's timeout."""
    seen: list[float] = []
    client = serve(*(Fake(name, turns=[hanging(clock, seen)]) for name in ("one", "two")), request_timeout=100.0)
    answer = ask(client)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (504, "timeout")
    assert clock.now == 1100


def test_a_stream_may_use_the_share_kept_for_fallback(serve: Serve, clock: Clock) -> None:
    """Once the answer has begun no fallback will come, so the whole of REQUEST_TIMEOUT is the stream's."""

    class Slow(Fake):
        def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
            yield Chunk("begun")
            clock.now += 95
            deadline.check()
            yield Chunk("done", "stop")

    answer = ask(serve(Slow("one"), Fake("two"), request_timeout=100.0), stream=True)
    assert json.loads(answer.data.splitlines()[-1])["finish_reason"] == "stop"


IN_TIME = {"request_timeout": 100.0, "first_chunk_timeout": 5.0}


def test_who_does_not_begin_in_time_leaves_it_to_the_next(serve: Serve, clock: Clock, log_lines: Log) -> None:
    """With FIRST_CHUNK_TIMEOUT a stream that has not begun goes to the next backend; the last one has all the time."""
    seen: list[float] = []
    backends = [Fake(name, turns=[hanging(clock, seen)]) for name in ("one", "two", "three")]
    ask(serve(*backends, **IN_TIME), stream=True)
    assert seen == [5, 5, 90]
    attempts = log_lines()[0]["attempts"]
    assert ["FIRST_CHUNK_TIMEOUT" in attempt["message"] for attempt in attempts] == [True, True, False]


def test_what_has_begun_in_time_goes_on(serve: Serve, clock: Clock) -> None:
    """The limit is for the beginning only."""

    def slow(deadline: Deadline) -> None:
        clock.now += 50

    answer = ask(serve(Fake("one", Chunk("a"), slow, Chunk("b", "stop")), Fake("two"), **IN_TIME), stream=True)
    assert [line.get("response") for line in lines_of(answer)][:2] == ["a", "b"]


@pytest.mark.parametrize(
    "said", [{}, {"stream": True, "response_format": {"type": "json_object"}}, {"stream": True, "fallback": False}]
)
def test_a_beginning_that_can_not_be_told(serve: Serve, clock: Clock, said: dict[str, Any]) -> None:
    """An answer that is waited for as a whole has the time of a whole; so has one that has no fallback."""
    seen: list[float] = []
    ask(serve(Fake("one", turns=[hanging(clock, seen)]), Fake("two"), **IN_TIME), **said)
    assert seen == [100 if "fallback" in said else 90]


# --- the breaker

TRIPPING = [Unreachable("m"), TimedOut("m"), Overloaded("m"), ServerError("m"), InvalidAnswer("m")]


def outcomes(client: FlaskClient, times: int) -> list[str]:
    return [ask(client).headers.get("X-LLM-Fallback", "ok") for _ in range(times)]


@pytest.mark.parametrize("error", TRIPPING, ids=lambda error: error.code)
def test_five_failures_in_a_row_open_the_breaker(serve: Serve, clock: Clock, error: BackendError) -> None:
    """From the sixth request on the fallback answers at once, without asking the backend."""
    one = Fake("one", turns=[error] * 5)
    assert outcomes(serve(one, Fake("two")), 7) == [error.code] * 5 + ["circuit_open"] * 2
    assert len(one.asked) == 5


@pytest.mark.parametrize(
    "error",
    [RateLimited("m"), QuotaExhausted("m"), BadCredentials("m"), ModelNotFound("m"), NotConfigured("m")],
    ids=lambda error: type(error).__name__,
)
def test_what_answers_fast_does_not_open_it(serve: Serve, clock: Clock, error: BackendError) -> None:
    """A backend that is well but says no is asked every time."""
    one = Fake("one", turns=[error] * 8)
    assert outcomes(serve(one, Fake("two")), 9) == [error.code] * 8 + ["ok"]


@pytest.mark.parametrize("fine", [[Chunk("", "stop")], RequestRefused("m")], ids=["answer", "refusal"])
def test_a_success_between_starts_the_count_again(serve: Serve, clock: Clock, fine: Turn) -> None:
    """Only failures in a row count; a backend that refuses a request is alive."""
    one = Fake("one", turns=[*[ServerError("m")] * 4, fine, *[ServerError("m")] * 4])
    assert "circuit_open" not in outcomes(serve(one, Fake("two")), 10)
    assert len(one.asked) == 10


def test_it_recovers(serve: Serve, clock: Clock) -> None:
    """After 7.5 to 12.5 seconds one request tries; when it succeeds the breaker closes."""
    one = Fake("one", turns=[ServerError("m")] * 5)
    client = serve(one, Fake("two"))
    outcomes(client, 5)
    clock.now += 7.4
    assert outcomes(client, 1) == ["circuit_open"]
    clock.now += 5.2
    assert outcomes(client, 2) == ["ok", "ok"]


def test_a_failed_trial_opens_it_again(serve: Serve, clock: Clock) -> None:
    """One failure is then enough, for as long again."""
    one = Fake("one", turns=[ServerError("m")] * 6)
    client = serve(one, Fake("two"))
    outcomes(client, 5)
    clock.now += 12.6
    assert outcomes(client, 2) == ["server_error", "circuit_open"]
    clock.now += 12.6
    assert outcomes(client, 1) == ["ok"]


def test_what_hung_before_it_opened_does_not_keep_it_open(clock: Clock) -> None:
    """Ten requests wait for a server that hangs, and end one after the other: the pause begins with the fifth."""
    breaker = Breaker()
    for ticket in [breaker.sent() for _ in range(10)]:
        clock.now += 2.0
        breaker.failed(ticket, "it hangs")
    clock.now += 2.6
    assert breaker.open_for() == 0


def test_only_one_request_tries(serve: Serve, clock: Clock) -> None:
    """While the trial is on its way the others go to the fallback."""
    during: list[str] = []
    one = Fake("one", turns=[*[ServerError("m")] * 5, lambda deadline: during.extend(outcomes(client, 2))])
    client = serve(one, Fake("two"))
    outcomes(client, 5)
    clock.now += 12.6
    one.turns.append([Chunk("", "stop")])
    ask(client)
    assert during == ["circuit_open", "circuit_open"]


def test_an_open_breaker_without_fallback_says_when_to_come_again(serve: Serve, clock: Clock, log_lines: Log) -> None:
    """503 with Retry-After for the rest of the pause, and an attempt in the log."""
    client = serve(Fake("one", turns=[ServerError("m")] * 5))
    for _ in range(5):
        ask(client)
    clock.now += 4
    answer = ask(client)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "circuit_open")
    assert answer.get_json()["error"]["message"].endswith("at last: m"), "the cause, for clients that show only this"
    assert 7.5 - 4.5 <= int(answer.headers["Retry-After"]) <= 12.5 - 4 + 1
    assert [a["outcome"] for a in log_lines()[-1]["attempts"]] == ["circuit_open"]


def test_each_model_has_its_own_breaker(serve: Serve, clock: Clock) -> None:
    """A model that a client chose opens its own; the configured one answers, by its name too."""
    one = Fake("one", turns=[ServerError("m")] * 5)
    client = serve(one, Fake("two"))
    chosen = [ask(client, model="bad").headers.get("X-LLM-Fallback") for _ in range(6)]
    assert chosen == ["server_error"] * 5 + ["circuit_open"]
    assert [ask(client, **named).get_json()["response"] for named in ({}, {"model": "one-model"})] == ["one"] * 2
    assert client.get("/health").get_json()["status"] == "healthy"


def test_the_configured_model_has_one_breaker_by_any_name(serve: Serve, clock: Clock) -> None:
    """Named or not, it is the same model."""
    one = Fake("one", turns=[ServerError("m")] * 5, model="one-model:latest")
    client = serve(one, Fake("two"))
    for named in ({}, {"model": "one-model"}, {"model": "one/one-model"}, {}, {"model": "one-model:latest"}):
        ask(client, **named)
    assert outcomes(client, 1) == ["circuit_open"]


def test_names_of_models_are_forgotten(serve: Serve, clock: Clock) -> None:
    """Clients choose them freely: those in use are remembered, the others make no process grow."""
    one = Fake("one", turns=[ServerError("m")] * 5)
    client = serve(one, Fake("two"))
    for _ in range(5):
        ask(client, model="bad")
    for number in range(MAX_MODELS - 1):
        ask(client, model=f"model-{number}")
    assert ask(client, model="bad").headers.get("X-LLM-Fallback") == "circuit_open"
    for number in range(MAX_MODELS):
        ask(client, model=f"model-{number}")
    assert ask(client, model="bad").get_json() == {"response": "one"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_node_that_serves_keeps_it_closed(serve: Serve, clock: Clock, stream: bool) -> None:
    """Behind one address a dead node fails fast while the other one works: none of its failures opens the breaker."""
    entered, release = threading.Event(), threading.Event()

    def work(_: Deadline) -> None:
        entered.set()
        assert release.wait(PATIENCE)

    one = Fake("one", turns=[[*([Chunk("begun")] if stream else []), work, END]])
    client = serve(one, Fake("two"))
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(ask, client.application.test_client(), stream=stream)
        try:
            assert entered.wait(PATIENCE)
            one.turns = [ServerError("m")] * 8
            assert outcomes(client, 9) == ["server_error"] * 8 + ["ok"]
        finally:
            release.set()
        assert "X-LLM-Fallback" not in served.result().headers


def test_a_success_a_moment_ago_keeps_it_closed(serve: Serve, clock: Clock) -> None:
    """For ten seconds a success says that a node lives; after that five failures open it again."""
    one = Fake("one", turns=[[END], *[ServerError("m")] * 12])
    client = serve(one, Fake("two"))
    assert outcomes(client, 11) == ["ok", *["server_error"] * 10]
    clock.now += 10.1
    assert outcomes(client, 2) == ["server_error", "circuit_open"]


def test_a_backend_that_hangs_opens_it(serve: Serve, clock: Clock) -> None:
    """Those that wait behind the one that fails say nothing: they were sent after it."""
    entered, release = threading.Event(), threading.Event()

    def hang(deadline: Deadline) -> None:
        entered.set()
        assert release.wait(PATIENCE)

    one = Fake("one", turns=[*[TimedOut("m")] * 4])
    client = serve(one, Fake("two"))
    outcomes(client, 4)

    def overtaken(_: Deadline) -> None:
        pool = ThreadPoolExecutor(1)  # not as a context, which would wait for what hangs
        waiting.append(pool.submit(ask, client.application.test_client()))
        pool.shutdown(wait=False)
        assert entered.wait(PATIENCE)
        raise TimedOut("m")

    waiting: list[Future[Any]] = []
    one.turns = [overtaken, hang]
    try:
        assert outcomes(client, 2) == ["timeout", "circuit_open"]
    finally:
        release.set()
        waiting[0].result()


def test_each_backend_has_its_own_breaker(serve: Serve, clock: Clock) -> None:
    """One that is open leaves the next of the chain as it is."""
    one, two = Fake("one", turns=[ServerError("m")] * 5), Fake("two", turns=[BadCredentials("m")] * 5)
    client = serve(one, two, Fake("three"))
    outcomes(client, 5)
    assert ask(client).get_json() == {"response": "two"}


def test_retries_count_as_failures(serve: Serve, clock: Clock) -> None:
    """Every try counts, so a breaker may open within one request, which then is not retried any more."""
    one = Fake("one", turns=[Overloaded("m", retry_after=AT_ONCE)] * 10)
    client = serve(one, Fake("two"), max_retries=3)
    assert outcomes(client, 3) == ["overloaded", "overloaded", "circuit_open"]
    assert len(one.asked) == 5


def test_a_broken_stream_counts(serve: Serve, clock: Clock) -> None:
    """Failing after the first chunk is failing too."""
    client = serve(Fake("one", turns=[[Chunk("half"), ServerError("m")]] * 5), Fake("two"))
    for _ in range(5):
        assert b'"done": true' in ask(client, stream=True).data
    assert outcomes(client, 1) == ["circuit_open"]


def test_a_stream_that_its_client_leaves_does_not_count(serve: Serve, clock: Clock) -> None:
    """A client that goes away says nothing about the backend."""
    client = serve(Fake("one"), Fake("two"))
    for _ in range(6):
        client.post("/generate", json={"prompt": "x", "stream": True}, buffered=False).close()
    assert outcomes(client, 1) == ["ok"]


def test_breakers_belong_to_one_app(serve: Serve, clock: Clock) -> None:
    """Another app in the same process starts with its breakers closed."""
    one = Fake("one", turns=[ServerError("m")] * 5)
    outcomes(serve(one, Fake("two")), 5)
    assert outcomes(serve(one, Fake("two")), 1) == ["ok"]


def test_the_stub_answers_for_a_backend_that_is_not_there(make_client: Serve) -> None:
    """The real chain, and a port where nobody listens: the default fallback answers and says so."""
    answer = ask(make_client(llm_backend="ollama", llm_fallback=("stub",), ollama_url="http://127.0.0.1:1"))
    assert answer.get_json()["response"].startswith("[stub]")
    assert (answer.headers["X-LLM-Backend"], answer.headers["X-LLM-Fallback"]) == ("stub", "unreachable")


@pytest.mark.parametrize("trial", [ModelNotFound("m"), RateLimited("m"), RequestRefused("m")], ids=lambda e: e.code)
def test_a_trial_that_is_answered_closes_the_breaker(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, trial: LLMAPIError
) -> None:
    """A backend that refuses one request serves: what comes after the trial is not kept from it."""
    one = Fake("one", turns=[*[Unreachable("m")] * 5, trial])
    client = serve(one)
    for _ in range(5):
        ask(client)
    assert ask(client).json["error"]["code"] == "circuit_open"
    now = time.monotonic()
    monkeypatch.setattr("llm_api.exchange.breaker.time.monotonic", lambda: now + 13)
    assert ask(client).json["error"]["code"] == trial.code
    assert ask(client).json == {"response": "one"}


def test_a_trial_whose_client_leaves_lets_the_next_try(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that shows nothing keeps nobody out."""
    one = Fake("one", turns=[Unreachable("m")] * 5)
    client = serve(one)
    for _ in range(5):
        ask(client)
    now = time.monotonic()
    monkeypatch.setattr("llm_api.exchange.breaker.time.monotonic", lambda: now + 13)
    gone = client.post("/generate", json={"prompt": "x", "stream": True}, buffered=False)
    gone.close()
    assert ask(client).json == {"response": "one"}


def test_slow_readers_do_not_open_the_breaker(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is late after its first piece says nothing against the backend: its client may be slow."""
    one = Fake("one", turns=[[Chunk("x"), TimedOut("m")]] * 6)
    client = serve(one)
    for _ in range(6):
        assert ask(client, stream=True).text.endswith('"done": true}\n')
    assert ask(client).json == {"response": "one"}
