"""How often one may ask: who is counted, what is counted, and what happens while the storage is away."""

import hashlib
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from asking import GENERATE, Log, Serve, ask
from fakes import Clock, Fake
from flask.testing import FlaskClient
from limits import parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage
from werkzeug.test import TestResponse

from llm_api import Settings
from llm_api.errors import ConfigError, RateLimitExceeded
from llm_api.rules import ApiKey, rates
from llm_api.types import Chunk, Usage
from llm_api.web.limits import RateLimits

ROOT = Path(__file__).parents[2]
NOBODY_LISTENS = "redis://:canary-password@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1_795_000_000.0)
    monkeypatch.setattr("time.time", clock.time)
    monkeypatch.setattr("llm_api.web.limits.time", clock)
    return clock


class Away(MemoryStorage):
    """Stands in for Redis: can be away, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True
        self.asked = 0

    def acquire_entry(self, *args: Any, **kwargs: Any) -> bool:
        self.asked += 1
        if self.is_away:
            raise StorageError(ConnectionError("canary-password"))
        return super().acquire_entry(*args, **kwargs)

    def get(self, key: str) -> int:
        if self.is_away:
            raise StorageError(ConnectionError("canary-password"))
        return super().get(key)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        if self.is_away:
            raise StorageError(ConnectionError("canary-password"))
        return super().incr(key, expiry, amount=amount)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Away:
    storage = Away()
    monkeypatch.setattr("limits.storage.storage_from_string", lambda *args, **kwargs: storage)
    return storage


def statuses(client: FlaskClient, times: int, **said: Any) -> list[int]:
    return [ask(client, **said).status_code for _ in range(times)]


def keys(*names: str) -> tuple[ApiKey, ...]:
    """Return keys that are called as they are."""
    return tuple(ApiKey(name, hashlib.sha256(name.encode()).hexdigest()) for name in names)


@pytest.mark.parametrize("path", GENERATE)
def test_one_too_many(make_client: Serve, log_lines: Log, clock: Clock, path: str) -> None:
    """It is a 429 that says which limit and how long to wait, with a line in the log; the backend is not asked."""
    client = make_client(rate_limit="2/minute")
    assert statuses(client, 2, path=path) == [200, 200]
    clock.now += 10.5
    answer = ask(client, path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "50")
    assert "x-should-retry" not in answer.headers
    message = "more than 2 per 1 minute (RATE_LIMIT)"
    error = {"message": message, "type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}
    assert answer.json["error"] == error
    line = log_lines()[-1]
    assert (line["status"], line["http_status"], line["operation"]) == ("error", 429, GENERATE[path][1])
    assert line["error"] == {name: error[name] for name in ("type", "code", "message")}
    assert (line["prompt"], line["attempts"], line["client_ip"]) == (None, [], "127.0.0.1")


@pytest.mark.parametrize(
    ("rate", "passing", "seconds"),
    [("1/second", 1, 1), ("3/minute", 3, 60), ("2/hour", 2, 3600), ("2/day", 2, 86_400)],
)
def test_who_waits_may_ask_again(make_client: Serve, clock: Clock, rate: str, passing: int, seconds: int) -> None:
    """Retry-After is the time until one more passes, an hour at most; refused requests don't make it longer."""
    client = make_client(rate_limit=rate)
    assert statuses(client, passing + 2) == [200] * passing + [429, 429]
    assert ask(client).headers["Retry-After"] == str(min(seconds, 3600))
    clock.now += seconds - 0.01
    assert ask(client).headers["Retry-After"] == "1"
    clock.now += 0.02
    assert statuses(client, passing + 1) == [200] * passing + [429]


def test_the_window_moves(make_client: Serve, clock: Clock) -> None:
    """Of two requests that used it up, each makes room for one when it is a minute old."""
    client = make_client(rate_limit="2/minute")
    for seconds, said in ((0, 200), (40, 200), (19, 429), (2, 200), (30, 429), (10, 200), (1, 429)):
        clock.now += seconds
        assert ask(client).status_code == said


def test_the_border_of_the_window(clock: Clock) -> None:
    """A request that is exactly a minute old counts no more, and the one that takes its place does."""
    limits = RateLimits(Settings(rate_limit="1/minute"))
    for _ in range(3):
        limits.count(None, "1.2.3.4")
        with pytest.raises(RateLimitExceeded) as refused:
            limits.count(None, "1.2.3.4")
        assert refused.value.retry_after == 60
        clock.now += 60


def test_several_rates(make_client: Serve, clock: Clock) -> None:
    """Each of them holds, and the one that was exceeded is named."""
    client = make_client(rate_limit="2/second;3/minute")
    assert statuses(client, 2) == [200, 200]
    assert "more than 2 per 1 second" in ask(client).text
    clock.now += 5
    assert ask(client).status_code == 200
    clock.now += 5
    answer = ask(client)
    assert "more than 3 per 1 minute" in answer.text
    assert answer.headers["Retry-After"] == "50"


@pytest.mark.parametrize("rate", ["3/second;10/minute", "10/minute;3/second"])
def test_what_one_rate_refuses_does_not_count_for_another(make_client: Serve, clock: Clock, rate: str) -> None:
    """Of a burst only what was answered is taken from the minute, in whichever order the rates stand."""
    client = make_client(rate_limit=rate)
    assert statuses(client, 10).count(200) == 3
    clock.now += 1.1
    assert statuses(client, 10).count(200) == 3


def standing(answer: TestResponse) -> tuple[str, ...]:
    """Return what the headers say: the limit, how many are left, when one more is."""
    return tuple(answer.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset"))


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("shared", [False, True])
def test_headers(make_client: Serve, clock: Clock, storage: Away, path: str, shared: bool) -> None:
    """Each answer says how many requests are left, and when one more will be, in OpenAI's words; also one in error."""
    storage.is_away = False
    client = make_client(rate_limit="3/minute", **({"rate_limit_storage": NOBODY_LISTENS} if shared else {}))
    assert standing(ask(client, path)) == ("3", "2", "1m0s")
    clock.now += 20
    wrong = ask(client, path, max_tokens=0)
    assert (wrong.status_code in (400, 422), standing(wrong)) == (True, ("3", "1", "40s"))
    assert standing(ask(client, path, stream=True)) == ("3", "0", "40s")
    refused = ask(client, path)
    assert (refused.status_code, refused.headers["Retry-After"], standing(refused)) == (429, "40", ("3", "0", "40s"))


def test_headers_of_several_rates(make_client: Serve, clock: Clock) -> None:
    """They are those of the rate that is used up first, or was."""
    client = make_client(rate_limit="2/second;3 per 2 hours")
    assert [standing(ask(client)) for _ in range(3)] == [("2", "1", "1s"), ("2", "0", "1s"), ("2", "0", "1s")]
    clock.now += 59
    assert standing(ask(client)) == ("3", "0", "1h59m1s")


def test_no_headers_without_a_count(make_client: Serve) -> None:
    """Where nothing is counted nothing is said."""
    allowing = make_client(rate_limit="1/day", rate_limit_storage=NOBODY_LISTENS, rate_limit_on_failure="allow")
    for answer in (ask(make_client()), ask(allowing), make_client(rate_limit="1/day").get("/health")):
        assert (answer.status_code, [name for name, _ in answer.headers if "ratelimit" in name.lower()]) == (200, [])


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("2 per minute", "more than 2 per 1 minute (RATE_LIMIT)"),
        ("100/day;2/minute", "more than 2 per 1 minute (RATE_LIMIT)"),
        ("2 PER 5 Minutes, 9/year", "more than 2 per 5 minute (RATE_LIMIT)"),
    ],
)
def test_forms_of_flask_limiter(make_client: Serve, clock: Clock, rate: str, message: str) -> None:
    """They mean what they mean there."""
    client = make_client(rate_limit=rate)
    assert statuses(client, 2) == [200, 200]
    assert ask(client).json["error"]["message"] == message


@pytest.mark.parametrize(
    "rate", ["1/second", "2 per minute", "100/day;10/minute", "3 per 2 hours, 4/month", "5/hour | 2/day", "7/3years"]
)
def test_rates_are_read_as_limits_reads_them(rate: str) -> None:
    """The package behind Flask-Limiter finds the same amounts and times in a text."""
    ours = [(each.amount, each.seconds) for each in rates(rate)]
    assert ours == [(item.amount, item.get_expiry()) for item in parse_many(rate)]


def test_who_stays_away_is_forgotten(clock: Clock) -> None:
    """What many addresses took of the memory is there again when their requests count no more, while others stay."""
    limits = RateLimits(Settings(rate_limit="5/second;9/minute"))
    limits.count(None, "1.2.3.4")
    tracemalloc.start()
    try:
        for number in range(4_000):
            limits.count(None, f"10.1.{number >> 8}.{number & 255}")
        taken, _ = tracemalloc.get_traced_memory()
        for _ in range(3):
            clock.now += 30
            limits.count(None, "1.2.3.4")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < taken / 2  # the tables are not made smaller


def test_each_key_has_its_own_count(make_client: Serve, log_lines: Log) -> None:
    """With keys the address does not matter; the name of who asked too often is in the log."""
    client = make_client(rate_limit="1/minute", api_keys=keys("alice-12", "bob-1234"))
    bearers = {name: {"x-api-key": name} for name in ("alice-12", "bob-1234")}
    assert ask(client, address="1.1.1.1", headers=bearers["alice-12"]).status_code == 200
    assert ask(client, address="2.2.2.2", headers=bearers["alice-12"]).status_code == 429
    assert log_lines()[-1]["caller"] == "alice-12"
    assert ask(client, address="1.1.1.1", headers=bearers["bob-1234"]).status_code == 200


def test_a_wrong_key_is_not_counted(make_client: Serve) -> None:
    """Nobody can use up another's requests without the key."""
    client = make_client(rate_limit="1/minute", api_keys=keys("alice-12"))
    assert statuses(client, 3, headers={"x-api-key": "Alice-12"}) == [401] * 3
    assert ask(client, headers={"x-api-key": "alice-12"}).status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("1.2.3.4", "1.2.3.4", True),
        ("1.2.3.4", "1.2.3.5", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:0DB8:1:2::5", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4", True),
        ("", "1.2.3.4", False),
        ("", "", True),
        ("garbage", "garbage", True),
        ("garbage", "rubbish", False),
    ],
)
def test_each_address_has_its_own_count(make_client: Serve, one: str, other: str, are_one: bool) -> None:
    """Without keys it is the address; an IPv6 customer has a whole /64 of them, and is still one."""
    client = make_client(rate_limit="1/minute")
    assert ask(client, address=one).status_code == 200
    assert ask(client, address=other).status_code == (429 if are_one else 200)


def test_the_address_is_the_clients(make_client: Serve) -> None:
    """Behind a proxy each of its clients has its own count, as in the log."""
    client = make_client(rate_limit="1/minute", trusted_proxies=(None,))
    said = [
        ask(client, address="", headers={"X-Forwarded-For": ip}).status_code for ip in ("1.1.1.1", "2.2.2.2", "1.1.1.1")
    ]
    assert said == [200, 200, 429]


def test_both_dialects_share_the_count(make_client: Serve) -> None:
    """Who has used up its requests in one has none in the other."""
    client = make_client(rate_limit=f"{len(GENERATE)}/minute")
    assert [ask(client, path).status_code for path in GENERATE] == [200] * len(GENERATE)
    assert [ask(client, path).status_code for path in GENERATE] == [429] * len(GENERATE)


def test_only_generating_counts(make_client: Serve) -> None:
    """Looking at health, metrics, models and settings is free, also for who has no requests left."""
    client = make_client(rate_limit="1/minute")
    free = ["/health", "/health/live", "/metrics", "/v1/models", "/v1/models/stub/stub", "/config", "/openapi.json"]
    assert [client.get(path, environ_overrides={"REMOTE_ADDR": "1.2.3.4"}).status_code for path in free] == [200] * 7
    assert statuses(client, 2) == [200, 429]
    assert [client.get(path, environ_overrides={"REMOTE_ADDR": "1.2.3.4"}).status_code for path in free] == [200] * 7


def test_without_a_limit_nobody_is_refused(make_client: Serve) -> None:
    """No RATE_LIMIT is no limit, whatever the storage."""
    assert set(statuses(make_client(rate_limit_storage=NOBODY_LISTENS), 50)) == {200}


# The storage is away


@pytest.mark.parametrize(
    ("on_failure", "said"),
    [("memory", [200, 200, 429, 429]), ("allow", [200, 200, 200, 200]), ("deny", [503, 503, 503, 503])],
)
@pytest.mark.parametrize("path", GENERATE)
def test_a_storage_that_is_away(make_client: Serve, on_failure: str, said: list[int], path: str) -> None:
    """memory: counted here; allow: not at all; deny: nobody is answered. With the real client of Redis."""
    client = make_client(rate_limit="2/minute", rate_limit_storage=NOBODY_LISTENS, rate_limit_on_failure=on_failure)
    assert statuses(client, 4, path=path) == said


def test_denied(make_client: Serve, log_lines: Log, storage: Away) -> None:
    """It is a 503 that may be tried again, in our shape and with a line; nothing is generated."""
    client = make_client(rate_limit="9/minute", rate_limit_storage=NOBODY_LISTENS, rate_limit_on_failure="deny")
    answer = ask(client)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (answer.json["error"]["type"], answer.json["error"]["code"]) == ("server_error", "limits_unavailable")
    assert "x-should-retry" not in answer.headers
    (line,) = log_lines()
    assert (line["http_status"], line["error"]["code"], line["attempts"]) == (503, "limits_unavailable", [])


@pytest.mark.parametrize(("on_failure", "said"), [("memory", 200), ("allow", 200), ("deny", 503)])
def test_it_is_left_alone_for_a_second(
    make_client: Serve, clock: Clock, storage: Away, on_failure: str, said: int
) -> None:
    """Only the first request of each second waits for a storage that is away; then it is asked again."""
    client = make_client(rate_limit="9/minute", rate_limit_storage=NOBODY_LISTENS, rate_limit_on_failure=on_failure)
    assert (statuses(client, 3), storage.asked) == ([said] * 3, 1)
    clock.now += 0.99
    assert (statuses(client, 1), storage.asked) == ([said], 1)
    clock.now += 0.01
    assert (statuses(client, 2), storage.asked) == ([said] * 2, 2)


def test_it_comes_back(make_client: Serve, clock: Clock, storage: Away) -> None:
    """Once it answers, requests are counted there again."""
    client = make_client(rate_limit="1/minute", rate_limit_storage=NOBODY_LISTENS)
    assert statuses(client, 2) == [200, 429]
    storage.is_away = False
    clock.now += 1
    assert (statuses(client, 3), storage.asked) == ([200, 429, 429], 4)


def test_its_address_is_told_to_nobody(
    make_client: Serve, log_path: Path, caplog: pytest.LogCaptureFixture, storage: Away
) -> None:
    """The error output says that it is away and what kind of error that was, and no word of the error's text."""
    answer = ask(make_client(rate_limit="1/minute", rate_limit_storage=NOBODY_LISTENS, rate_limit_on_failure="deny"))
    assert caplog.messages == ["the storage of the rate limits is away (ConnectionError)"]
    assert "canary" not in answer.text + log_path.read_text() + caplog.text


# The start


def test_a_missing_package_ends_the_start(monkeypatch: pytest.MonkeyPatch, make_client: Serve) -> None:
    """A Redis without its packages is said at once, with how to mend it; nothing else needs them."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"^RATE_LIMIT_STORAGE is .*: pip install limits redis$"):
        make_client(rate_limit="1/minute", rate_limit_storage=NOBODY_LISTENS)
    assert ask(make_client(rate_limit="1/minute")).status_code == 200
    assert ask(make_client(rate_limit_storage=NOBODY_LISTENS)).status_code == 200


def test_what_redis_would_refuse_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that can't be one is said at the start, not with each request, and without its password."""
    monkeypatch.setenv("RATE_LIMIT_STORAGE", "redis://:canary@h:99999/0")
    with pytest.raises(ConfigError, match=r"^RATE_LIMIT_STORAGE='its value' is not valid: it must be memory:// or"):
        Settings.load(None)


# Tokens


@pytest.fixture(params=["memory://", "redis://shared"])
def where(request: pytest.FixtureRequest, storage: Away) -> str:
    """Return where they are counted: here, or in a storage for all workers."""
    storage.is_away = False
    return str(request.param)


def used(tokens: int) -> Fake:
    """Return a backend whose answers use so many tokens."""
    return Fake("one", Chunk("x", "stop", Usage(1, tokens - 1)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GENERATE)
def test_tokens(make_client: Serve, clock: Clock, where: str, path: str, stream: bool) -> None:
    """Who has used them up gets a 429 that says when there are more: a window after the first was used."""
    client = make_client(used(40), rate_limit="100 tokens/minute", rate_limit_storage=where)
    assert statuses(client, 1, path=path, stream=stream) == [200]
    clock.now += 20
    assert statuses(client, 2, path=path, stream=stream) == [200, 200]
    answer = ask(client, path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "40")
    assert "more than 100 tokens per 1 minute (RATE_LIMIT)" in answer.text
    clock.now += 40.1
    assert statuses(client, 1, path=path) == [200]


def test_headers_of_tokens(make_client: Serve, clock: Clock, where: str) -> None:
    """OpenAI's headers tell of both kinds, each as it was when the request came."""
    client = make_client(used(40), rate_limit="9/minute, 100 tokens/hour, 1000 tokens/day", rate_limit_storage=where)
    statuses(client, 1)
    clock.now += 600
    answer = ask(client)
    said = [answer.headers[f"x-ratelimit-{name}-tokens"] for name in ("limit", "remaining", "reset")]
    assert said == ["100", "60", "50m0s"]
    assert answer.headers["x-ratelimit-remaining-requests"] == "8"


def test_whose_tokens(make_client: Serve, where: str) -> None:
    """Each address has its own; what no backend counts is not counted; a refused request counts for no other rate."""
    client = make_client(used(40), rate_limit="3/minute, 10 tokens/day", rate_limit_storage=where)
    assert [ask(client, address=ip).status_code for ip in ("1.1.1.1", "2.2.2.2", "1.1.1.1")] == [200, 200, 429]
    assert ask(client, address="1.1.1.1").headers["x-ratelimit-limit-tokens"] == "10"
    assert "tokens" in [ask(client, address="1.1.1.1").text for _ in range(3)][-1]
    unknown = make_client(Fake("one", Chunk("x", "stop")), rate_limit="1 tokens/day", rate_limit_storage=where)
    assert statuses(unknown, 3) == [200] * 3


def test_tokens_while_the_storage_is_away(make_client: Serve, clock: Clock, storage: Away) -> None:
    """A storage that goes away fails no answer: tokens are then counted in the worker."""
    client = make_client(used(40), rate_limit="40 tokens/day", rate_limit_storage="redis://shared")
    assert statuses(client, 2) == [200, 429]
    storage.is_away = False
    clock.now += 1.5
    assert statuses(client, 2) == [200, 429]


def test_one_worker_forgets_who_used_none(clock: Clock) -> None:
    """What a key has used is forgotten when its window is over."""
    limits = RateLimits(Settings(rate_limit="10 tokens/minute"))
    tracemalloc.start()
    for second in range(3):
        for number in range(2000):
            limits.use(f"key {second} {number}", None, 1)
        clock.now += 61
    limits.count(None, "1.2.3.4")
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 400_000  # 6,000 take 2,000,000
