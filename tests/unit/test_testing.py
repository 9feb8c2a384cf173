"""What ships for those who test with LLM API: llm_stub, and the contract that every backend of ours keeps too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from providers import CLAUDE, HUGGING_FACE, OLLAMA, OPENAI, FarEnd, Provider

from llm_api import LLMAPI, Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import BackendError, NotConfigured, Overloaded, RateLimited, RequestRefused, TimedOut, Unreachable
from llm_api.testing import BackendContract, ScriptedBackend

pytest_plugins = ["pytester"]

Make = Callable[..., Flask]
ASK = {"prompt": "Hello there"}


# --- llm_stub


def test_scripted_answers_in_their_order(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """Answers come in the order they were put in, over HTTP and from Python; then there is a default."""
    app = make_app()
    llm_stub.answers("one", "two")
    llm_stub.answers("three")
    said = [app.test_client().post("/generate", json=ASK).get_json()["response"] for _ in range(2)]
    said += [LLMAPI.of(app).generate("Hello").text for _ in range(2)]
    assert said == ["one", "two", "three", "stub answer"]


def test_what_was_asked(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """The test sees what the app asked for."""
    make_app().test_client().post("/generate", json=ASK | {"system": "Be brief.", "temperature": 0})
    (request,) = llm_stub.requests
    assert (request.system, request.turns[0].content, request.parameters) == (
        "Be brief.",
        "Hello there",
        {"temperature": 0},
    )


def test_an_app_made_before_and_after(make_app: Make, request: pytest.FixtureRequest) -> None:
    """It is the backend of apps that were made at import too, and of all of them in one test."""
    before = make_app(llm_backend="ollama")
    llm_stub = request.getfixturevalue("llm_stub")
    llm_stub.answers("one", "two")
    assert [LLMAPI.of(app).generate("Hello").text for app in (before, make_app(llm_backend="openai"))] == ["one", "two"]


def test_a_stream_of_words(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """A streamed answer comes word by word, with nothing lost."""
    llm_stub.answers("to  be or\nnot")
    pieces = list(LLMAPI.of(make_app()).stream("Hello"))
    assert len(pieces) > 2
    assert "".join(pieces) == "to  be or\nnot"


def test_scripted_errors(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """An error meets one request, with its status, without the pauses of retries; the fallback is the real one."""
    alone, backed = make_app(max_retries=2), make_app(llm_fallback=("stub",), llm_backend="ollama", max_retries=2)
    llm_stub.fails(Overloaded("busy"))
    refused = alone.test_client().post("/generate", json=ASK)
    assert (refused.status_code, refused.get_json()["error"]["message"]) == (503, "busy")
    llm_stub.fails(RateLimited("slow down"))
    assert LLMAPI.of(backed).generate("Hello").fallback_reason == "rate_limited"
    assert [len(line["attempts"]) for line in llm_stub.records] == [1, 2]


@pytest.mark.parametrize("backend", ["stub", "ollama", "openai"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error", [Overloaded("m"), RateLimited("m"), TimedOut("m"), Unreachable("m"), NotConfigured("m")]
)
def test_what_fails_falls_back_as_a_real_one(
    make_app: Make, llm_stub: ScriptedBackend, backend: str, stream: bool, error: BackendError
) -> None:
    """LLM_FALLBACK answers whatever LLM_BACKEND is, the stub too, over HTTP and from Python, and says why."""
    app = make_app(llm_backend=backend, llm_fallback=("stub",))
    for _ in range(2):
        llm_stub.fails(error)
    reply = app.test_client().post("/generate", json=ASK | {"stream": stream})
    assert "[stub]" in reply.text
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Fallback"]) == ("stub", error.code)
    assert LLMAPI.of(app).generate("Hello").fallback_reason == error.code
    assert [line["fallback_reason"] for line in llm_stub.records] == [error.code] * 2


def test_what_does_not_fall_back(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """The request's own fault, one that wants no fallback, and a chain without one get the error."""
    backed, alone = make_app(llm_fallback=("stub",)), make_app()
    for app, error, more in (
        (backed, RequestRefused("m"), {}),
        (backed, Overloaded("m"), {"fallback": False}),
        (alone, Overloaded("m"), {}),
    ):
        llm_stub.fails(error)
        assert app.test_client().post("/generate", json=ASK | more).status_code == error.status


def test_nobody_else_is_asked(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """/health, /v1/models and a model that a request names ask the scripted one, not the configured ones."""
    app = make_app(llm_backend="openai", openai_api_key="k", llm_fallback=("ollama",), allow_model_choice=True)
    client = app.test_client()
    assert client.get("/health").get_json()["status"] == "healthy"
    assert [model["id"] for model in client.get("/v1/models").get_json()["data"]] == ["scripted/script"]
    assert client.post("/generate", json=ASK | {"model": "ollama/llama2"}).headers["X-LLM-Backend"] == "scripted"


@pytest.mark.parametrize("model", ["gpt-4o", "claude-5", "scripted/script", "script"])
def test_an_alias_is_the_scripted_one_too(make_app: Make, llm_stub: ScriptedBackend, model: str) -> None:
    """What MODEL_ALIASES sends to another backend of the chain asks the scripted one; so do its own names."""
    aliases = {"gpt-4o": "default", "claude-*": "ollama/llama2"}
    app = make_app(llm_backend="stub", llm_fallback=("ollama",), model_aliases=aliases)
    reply = app.test_client().post("/generate", json=ASK | {"model": model})
    assert (reply.status_code, reply.headers["X-LLM-Backend"]) == (200, "scripted")
    assert app.test_client().post("/api/show", json={"model": "scripted/script"}).status_code == 200


def test_scripted_delays(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """A delay counts against REQUEST_TIMEOUT, for answers and for errors."""
    llm = LLMAPI.of(make_app(request_timeout=0.1))
    llm_stub.answers("too late", delay=600)
    llm_stub.fails(Overloaded("too late"), delay=600)
    for _ in range(2):
        with pytest.raises(TimedOut):
            llm.generate("Hello")


def test_no_line_reaches_a_log(make_app: Make, llm_stub: ScriptedBackend, log_path: Path) -> None:
    """A test run does not write into the log that the app is configured with; the lines are at hand."""
    make_app().test_client().post("/generate", json=ASK)
    assert not log_path.exists()
    assert [(line["prompt"], line["response"], line["status"]) for line in llm_stub.records] == [
        ("Hello there", "stub answer", "ok")
    ]


TWO_TESTS = """
from llm_api import LLMAPI, Settings, create_app

llm = LLMAPI.of(create_app(Settings(llm_backend="stub", log_file="log.jsonl")))

def test_with(llm_stub):
    assert llm.generate("Hello").backend == "scripted"

def test_without():
    assert llm.generate("Hello").backend == "stub"
"""


@pytest.mark.usefixtures("named_plugins")
def test_it_is_over_with_the_test(pytester: pytest.Pytester) -> None:
    """After the test an app has its own backend and its log again."""
    pytester.makepyfile(TWO_TESTS)
    pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-p", "llm_api.testing").assert_outcomes(passed=2)
    assert len((pytester.path / "log.jsonl").read_text().splitlines()) == 1


# --- the contract


class TestScripted(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return ScriptedBackend()


class TestStub(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return make_backend("stub", Settings())


class TestReplay(BackendContract):
    @pytest.fixture
    def backend(self, make_app: Make, log_path: Path) -> Backend:
        LLMAPI.of(make_app()).generate(self.prompt, max_tokens=16)
        LLMAPI.of(make_app()).generate(self.prompt)
        return make_backend("replay", Settings(replay_file=str(log_path)))


class BehindHttp(BackendContract):
    """Each provider's backend in front of its mock."""

    provider: Provider
    listed: str

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
            asked = json.loads(request.body)
            whole = json.dumps(self.provider.answer("Paris, I think.")).encode()
            return 200, {}, self.provider.stream("Paris", ", I think.") if asked.get("stream") else whole

        with FarEnd(assert_all_requests_are_fired=False) as far_end:
            far_end.add_callback("POST", self.provider.url, answer)
            far_end.get(self.provider.models_url, body=self.listed)
            far_end.add(*self.provider.check, body=self.listed)
            yield make_backend(self.provider.name, Settings(**self.provider.settings))


class TestOllama(BehindHttp):
    provider = OLLAMA
    listed = '{"models": [{"name": "llama2:latest"}]}'


class TestOpenAI(BehindHttp):
    provider = OPENAI
    listed = '{"data": [{"id": "gpt-6-luna"}]}'


class TestClaude(BehindHttp):
    provider = CLAUDE
    listed = '{"data": [{"id": "claude-haiku-5-5"}], "has_more": false}'


class TestHuggingFaceCloud(BehindHttp):
    provider = HUGGING_FACE
    listed = '{"data": [{"id": "openai/gpt-oss-20b"}]}'


# --- the contract finds what breaks it

MENDED = """
import pytest
from llm_api import Settings
from llm_api.backends import Backend
from llm_api.errors import ServerError
from llm_api.testing import BackendContract
from llm_api.types import Chunk, Usage


class Mine(Backend):
    name = "mine"
    model = "m"

    def stream(self, request, deadline):
        {stream}

    def check(self, deadline):
        {check}

    def list_models(self, deadline):
        return ["m"]


class TestMine(BackendContract):
    @pytest.fixture
    def backend(self):
        return Mine(Settings())
"""
GOOD = 'yield Chunk("Paris"); yield Chunk("", "stop")'


@pytest.mark.usefixtures("named_plugins")
@pytest.mark.parametrize(
    ("stream", "check", "found"),
    [
        (GOOD, "pass", ""),
        ('yield Chunk("Paris")', "pass", "only_the_last_chunk"),
        ('yield Chunk("Paris", "stop"); yield Chunk("", "stop")', "pass", "only_the_last_chunk"),
        ('yield Chunk("Paris"); yield Chunk("", "end_turn")', "pass", "only_the_last_chunk"),
        ('yield Chunk("", "stop")', "pass", "says_something"),
        ('return [Chunk("Paris", "stop")]', "pass", ""),
        (GOOD, 'raise ServerError("down")', "can_be_checked"),
        ("deadline.check(); " + GOOD, "pass", ""),
        ('raise KeyError("x"); yield', "pass", "minds_the_deadline"),
    ],
)
def test_the_contract_finds(pytester: pytest.Pytester, stream: str, check: str, found: str) -> None:
    """A backend that keeps the contract passes all of it; one that breaks a promise fails the test of that name."""
    pytester.makepyfile(MENDED.format(stream=stream, check=check))
    ended = pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-p", "llm_api.testing", "-q")
    failed = ended.parseoutcomes().get("failed", 0)
    assert ended.parseoutcomes()["passed"] >= 1
    assert bool(failed) == bool(found)
    ended.stdout.fnmatch_lines([f"FAILED *{found}*"] if found else ["*8 passed*"])
