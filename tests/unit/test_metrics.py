"""/metrics: what each end of a request counts, under names and labels as Prometheus wants them; and the trace's id."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import GENERATE, Log, Serve, ask
from fakes import ANSWER, Clock, Fake
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from llm_api.errors import InvalidAnswer, RequestRefused, ServerError, Unreachable
from llm_api.exchange.breaker import FAILURES, OPEN_SECONDS
from llm_api.rules import ApiKey
from llm_api.types import Chunk, Usage

Sample = tuple[Any, ...]

ROOT = Path(__file__).parents[2]
# what depends on how long it took
MEASURED = ("_bucket", "_sum", "_created")


def sample(name: str, **labels: str) -> Sample:
    return (name, *sorted(labels.items()))


def numbers(client: FlaskClient) -> dict[Sample, float]:
    """Return the value of each sample, whose name stands without llm_api_."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [found for family in families for found in family.samples if not found.name.endswith(MEASURED)]
    return {sample(found.name.removeprefix("llm_api_"), **found.labels): found.value for found in samples}


@pytest.fixture
def changes(serve: Serve) -> Callable[..., dict[Sample, float]]:
    """Return a function that says what a request has changed. The numbers are the process's, so of other tests too."""

    def of(client: FlaskClient, ask: Callable[[FlaskClient], object]) -> dict[Sample, float]:
        before = numbers(client)
        ask(client)
        after = numbers(client)
        assert before.keys() - after.keys() == set()
        return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}

    return of


Changes = Callable[..., dict[Sample, float]]


def stream(client: FlaskClient, path: str = "/generate") -> TestResponse:
    return ask(client, path, stream=True)


def leave(client: FlaskClient) -> None:
    answer = client.post("/generate", json={"prompt": "x", "stream": True})
    next(iter(answer.response))
    answer.close()


def ended(operation: str, backend: str, status: str, code: int) -> dict[Sample, float]:
    return {
        sample("requests_total", operation=operation, backend=backend, status=status, code=str(code)): 1,
        sample("request_duration_seconds_count", operation=operation, backend=backend): 1,
    }


def tried(**outcomes: str) -> dict[Sample, float]:
    return {sample("attempts_total", backend=name, outcome=outcome): 1 for name, outcome in outcomes.items()}


def began(backend: str, outcome: str = "ok") -> dict[Sample, float]:
    return tried(**{backend: outcome}) | {sample("time_to_first_chunk_seconds_count", backend=backend): 1}


def answered(operation: str = "generate", backend: str = "one") -> dict[Sample, float]:
    tokens = {sample("tokens_total", backend=backend, kind=kind): n for kind, n in (("input", 3), ("output", 2))}
    return ended(operation, backend, "ok", 200) | began(backend) | tokens


def failed(http_status: int, operation: str = "generate", **outcomes: str) -> dict[Sample, float]:
    return ended(operation, "none", "error", http_status) | tried(**outcomes)


FALLBACK = {sample("fallbacks_total", requested_backend="one", backend="two", reason="unreachable"): 1}


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("send", [ask, stream])
def test_success(serve: Serve, changes: Changes, path: str, send: Any) -> None:
    """One request, one duration, one first chunk, the tokens, one try."""
    assert changes(serve(Fake("one")), lambda client: send(client, path)) == answered(GENERATE[path][1])


@pytest.mark.parametrize("send", [ask, stream])
@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (Unreachable("m"), ANSWER, answered(backend="two") | FALLBACK | tried(one="unreachable")),
        (Unreachable("m"), ServerError("m"), failed(503, one="unreachable", two="server_error")),
        (InvalidAnswer("m"), InvalidAnswer("m"), failed(502, one="invalid_answer", two="invalid_answer")),
        (RequestRefused("m"), ANSWER, failed(400, one="request_refused")),
        (RequestRefused("m", code="its-own-1f"), ANSWER, failed(400, one="request_refused")),
        (RuntimeError("m"), ANSWER, failed(500, one="internal_error")),
        ([Chunk("Hi", "stop", Usage(0, None))], ANSWER, ended("generate", "one", "ok", 200) | began("one")),
    ],
)
def test_failure_and_fallback(
    serve: Serve, changes: Changes, send: Any, one: Any, two: Any, expected: dict[Sample, float]
) -> None:
    """Each try counts with its outcome, the request once, a fallback with both backends and the reason."""
    assert changes(serve(Fake("one", turns=[one]), Fake("two", turns=[two])), send) == expected


def test_retries_are_tries(serve: Serve, changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try of the same backend counts; the request itself once."""
    monkeypatch.setattr("llm_api.exchange.attempts.FIRST_PAUSE", 0.001)
    client = serve(Fake("one", turns=[ServerError("m"), ServerError("m")]), max_retries=2)
    assert changes(client, ask) == answered() | {sample("attempts_total", backend="one", outcome="server_error"): 2}


@pytest.mark.parametrize(
    ("turn", "send", "status", "outcome"),
    [
        (ANSWER, leave, "aborted", "ok"),
        ([Chunk("Hi "), ServerError("m")], stream, "error", "server_error"),
        ([Chunk("Hi ")], stream, "error", "invalid_answer"),
        ([Chunk("Hi "), RuntimeError("m")], stream, "error", "internal_error"),
    ],
)
def test_a_stream_that_ends_early(
    serve: Serve, changes: Changes, turn: Any, send: Any, status: str, outcome: str
) -> None:
    """It counts as what its line says, however much of it the client had; a client that leaves fails nobody's try."""
    expected = ended("generate", "one", status, 200) | began("one", outcome)
    assert changes(serve(Fake("one", turns=[turn])), send) == expected


REFUSED: dict[str, tuple[dict[str, Any], Callable[[FlaskClient], object], int]] = {
    "wrong field": ({}, lambda client: ask(client, prompt=""), 422),
    "wrong JSON": ({}, lambda client: client.post("/generate", data="{", content_type="application/json"), 400),
    "wrong type": ({}, lambda client: client.post("/generate", data="{}"), 415),
    "too large": ({"max_body_bytes": 5}, ask, 413),
    "too often": ({"rate_limit": "1/day"}, ask, 429),
    "log": ({}, ask, 503),
}


@pytest.mark.parametrize("why", ["wrong field", "wrong JSON", "wrong type", "too large"])
def test_refused(serve: Serve, changes: Changes, why: str) -> None:
    """A request that never came to a backend counts too, with `none` in place of one."""
    settings, send, status = REFUSED[why]
    assert changes(serve(Fake("one"), **settings), send) == failed(status)


def test_refused_callers(serve: Serve, changes: Changes) -> None:
    """No key, too many requests, no place: each is in the numbers with its status."""
    twice = changes(serve(Fake("one"), rate_limit="1/day"), lambda client: [ask(client), ask(client)])
    assert twice == answered() | failed(429)
    client = serve(Fake("one"), max_concurrency=1)
    holding = client.post("/generate", json={"prompt": "x", "stream": True})
    assert changes(client, ask) == failed(503)
    holding.close()


def test_a_wrong_key_counts(serve: Serve, changes: Changes) -> None:
    """Guessing shows: as requests with the status 401."""
    with_keys, without = serve(Fake("one"), api_keys=(ApiKey("alice", "0" * 64),)), serve(Fake("one"))
    assert changes(without, lambda _: ask(with_keys, "/v1/completions")) == failed(401, "completion")


@pytest.mark.parametrize(("required", "status", "http_status"), [(True, "error", 503), (False, "ok", 200)])
def test_a_line_that_is_not_written(
    serve: Serve, changes: Changes, log_path: Path, required: bool, status: str, http_status: int
) -> None:
    """It counts, and the request as what its client was told."""
    log_path.parent.write_text("a file where the log's folder should be")
    expected = answered() | ended("generate", "one", status, http_status) | {sample("log_write_failures_total"): 1}
    if required:
        del expected[sample("requests_total", operation="generate", backend="one", status="ok", code="200")]
    assert changes(serve(Fake("one"), log_required=required), ask) == expected


@pytest.mark.parametrize("path", ["/health", "/metrics", "/config", "/v1/models", "/nothing", "/generate"])
def test_only_generating_counts(serve: Serve, changes: Changes, path: str) -> None:
    """Looking changes no number."""
    assert changes(serve(Fake("one")), lambda client: client.get(path)) == {}


# Gauges

IN_FLIGHT = sample("requests_in_flight")


@pytest.mark.parametrize(
    ("piece", "send"),
    [(ANSWER, ask), (ANSWER, stream), (ANSWER, leave), (ServerError("m"), ask), (RuntimeError("m"), ask)],
)
def test_in_flight(serve: Serve, changes: Changes, piece: Any, send: Any) -> None:
    """A request is counted in while it runs, and out at each of its ends."""
    seen: list[float] = []
    one = Fake("one")
    client = serve(one)
    before = numbers(client)[IN_FLIGHT]
    then = piece if isinstance(piece, list) else [piece]
    one.turns = [[lambda _: seen.append(numbers(client.application.test_client())[IN_FLIGHT]), *then]]
    send(client)
    assert seen == [before + 1]
    assert numbers(client)[IN_FLIGHT] == before


@pytest.mark.parametrize("why", REFUSED)
def test_in_flight_after_a_refused_request(serve: Serve, log_path: Path, why: str) -> None:
    """Nothing is left of a request that was refused."""
    settings, send, status = REFUSED[why]
    client = serve(Fake("one"), **settings)
    if why == "log":
        log_path.parent.write_text("a file where the log's folder should be")
    elif why == "too often":
        ask(client)
    before = numbers(client)[IN_FLIGHT]
    answer = send(client)
    assert isinstance(answer, TestResponse)
    answer.close()
    assert answer.status_code == status
    assert numbers(client)[IN_FLIGHT] == before


@pytest.mark.parametrize("send", [ask, stream])
def test_breaker(serve: Serve, clock: Clock, send: Any) -> None:
    """1 from the failure that opens it until a request has succeeded, a stream too; each backend has its own."""
    client = serve(Fake("flaky", turns=[ServerError("m")] * FAILURES), Fake("steady"))

    def gauges() -> list[float]:
        return [numbers(client)[sample("circuit_breaker_open", backend=name)] for name in ("flaky", "steady")]

    for _ in range(FAILURES - 1):
        send(client)
    assert gauges() == [0, 0]
    send(client)
    assert gauges() == [1, 0]
    clock.now += max(OPEN_SECONDS)
    assert gauges() == [1, 0]
    send(client)
    assert gauges() == [0, 0]


def test_breaker_of_a_model_that_a_client_chose(serve: Serve) -> None:
    """The gauge is the configured model's: a client's choice raises no alarm, and its name is no label."""
    fake = Fake("chosen")
    client = serve(fake)
    ask(client)
    fake.turns = [ServerError("m")] * FAILURES
    for _ in range(FAILURES):
        ask(client, model="bad-one")
    assert numbers(client)[sample("circuit_breaker_open", backend="chosen")] == 0
    assert "bad-one" not in client.get("/metrics").text


def test_breaker_of_streams_that_break_off(serve: Serve) -> None:
    """Answers that begin and break off open it too, and the gauge says so at once."""
    client = serve(Fake("broken", turns=[[Chunk("Hi "), ServerError("m")]] * FAILURES))
    for _ in range(FAILURES):
        stream(client)
    assert numbers(client)[sample("circuit_breaker_open", backend="broken")] == 1


# Names and labels


def test_names(serve: Serve) -> None:
    """Names begin alike, end in their unit or in total, and say what they are (prometheus.io, naming)."""
    client = serve(Fake("one"))
    ask(client)
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    families = [f for f in text_string_to_metric_families(answer.text) if not f.name.endswith("_created")]
    assert len(families) == 10
    for family in families:
        assert family.name.startswith("llm_api_"), family
        assert family.documentation.endswith("."), family
        assert (family.type == "histogram") == family.name.endswith("_seconds"), family
        assert family.type in ("counter", "gauge", "histogram"), family
        totals = {s.name.endswith("_total") for s in family.samples}
        assert totals <= {family.type == "counter"}, family


@pytest.mark.parametrize("path", GENERATE)
def test_no_label_has_a_clients_words(serve: Serve, path: str) -> None:
    """Who may send any text must not make numbers without end: none of it is in a label."""
    word = "canary-word"
    headers = dict.fromkeys(("X-Request-ID", "User-Agent", "Origin", "x-api-key", "X-Forwarded-For"), word)
    one = Fake(
        "one", turns=[[Chunk(word, "stop", model=word)], RequestRefused("m", code=word, param=word), ServerError(word)]
    )
    client = serve(one, Fake("stub"), trusted_proxies=(None,))
    texts = {"model": word, "stop": [word], "prompt": word}
    texts |= {"messages": [{"role": "user", "content": word}]} if "chat" in path else {}
    for fields in (texts, texts, texts, {word: word}, {"model": f"{word}/{word}"}, {"stop": word * 5}):
        body = GENERATE[path][0] | fields
        if "chat" in path:
            body.pop("prompt", None)
        client.post(path, json=body, headers=headers, environ_overrides={"REMOTE_ADDR": ""}, buffered=True)
    client.open(f"/{word}", method=word)
    assert len(one.asked) >= 3
    assert word not in client.get("/metrics").text


# The trace


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        *((f"00-{TRACE}-{PARENT}-{flags}", TRACE) for flags in ("01", "00", "ff")),
        (f"01-{TRACE}-{PARENT}-01", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", TRACE),
        (f"cc-{TRACE}-{PARENT}-01.what-the-future-will-be-like", None),
        *((f"00-{TRACE}-{PARENT}{end}", None) for end in ("-01-more", "-01-", "", "-1", "-0g")),
        *((f"{version}-{TRACE}-{PARENT}-01", None) for version in ("ff", "0", "x00")),
        *((f"00-{trace}-{PARENT}-01", None) for trace in ("0" * 32, TRACE.upper(), TRACE[:-1], f"{TRACE}0")),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00_{TRACE}_{PARENT}_01", None),
        (f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01", None),
        *((other, None) for other in (None, "", "-", "canary")),
    ],
)
def test_traceparent(
    serve: Serve, log_lines: Log, log_path: Path, traceparent: str | None, trace_id: str | None
) -> None:
    """A valid header's trace id is in the line (W3C Trace Context, section 3.2); of any other there is nothing."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    assert serve(Fake("one")).post("/generate", json={"prompt": "x"}, headers=headers).status_code == 200
    assert log_lines()[0]["trace_id"] == trace_id
    assert "canary" not in log_path.read_text()
