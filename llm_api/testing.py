"""For tests with LLM API: scripted answers in place of a backend, and the contract that every backend keeps.

Installed, it is a pytest plugin: `llm_stub` is there by itself. Otherwise: `pytest_plugins = ["llm_api.testing"]`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from . import strict_json
from .backends import Backend
from .errors import BackendError, RequestError
from .exchange.breaker import Breakers
from .exchange.chain import Chain, Link
from .log.writer import RequestLog
from .runtime.deadline import Deadline
from .settings import Settings
from .types import NEEDS, CallPiece, Chunk, GenerationRequest, Message, ToolCall, Usage

CONTRACT_SECONDS = 60.0


class ScriptedBackend(Backend):
    """Gives what was put in, in that order, then "stub answer".

    `requests` are those it got, `records` what the log would have.
    """

    name = "scripted"
    model = "script"
    serves = frozenset(NEEDS)

    def __init__(self) -> None:
        super().__init__(Settings())
        self.requests: list[GenerationRequest] = []
        self.records: list[dict[str, Any]] = []
        self._turns: deque[tuple[str | ToolCall | Exception, float]] = deque()

    def answers(self, *texts: str, delay: float = 0.0) -> None:
        """Answer the next requests with these texts, each after `delay` seconds."""
        self._turns.extend((text, delay) for text in texts)

    def calls(self, name: str, *, delay: float = 0.0, **arguments: Any) -> None:
        """Answer the next request, which must offer the tool `name`, with a call of it."""
        call = ToolCall(f"call_{len(self.requests) + len(self._turns)}", name, strict_json.dumps(arguments))
        self._turns.append((call, delay))

    def fails(self, error: Exception, delay: float = 0.0) -> None:
        """Meet the next request with `error`, such as llm_api.errors.Overloaded("busy"); it is not tried again."""
        if isinstance(error, BackendError):
            error.retryable = False
        self._turns.append((error, delay))

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        self.requests.append(request)
        turn, delay = self._turns.popleft() if self._turns else ("stub answer", 0.0)
        if delay:
            deadline.wait(delay)
        if isinstance(turn, Exception):
            raise turn
        if isinstance(turn, ToolCall):
            yield Chunk("", "tool_calls", model=self.model, calls=(CallPiece(0, turn.id, turn.name, turn.arguments),))
            return
        words = turn.split(" ")
        for number, word in enumerate(words):
            yield Chunk(word if number == 0 else f" {word}", model=self.model)
        asked = sum(len(message.content.split()) for message in request.messages)
        yield Chunk("", "stop", Usage(asked, len(words)), self.model)

    def check(self, deadline: Deadline) -> None:
        pass

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]


@pytest.fixture
def llm_stub(monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    """The first backend of every LLM API in this test, whenever its app was made; LLM_FALLBACK stays behind it.

    Whatever model a request names, it is asked first. No line goes to a log: they are its `records`.
    """
    scripted = ScriptedBackend()

    def get_links(self: Chain) -> list[Link]:
        first, *others = vars(self)["links"]
        # a stub that is to be asked first and last is there once
        is_twice = first.backend.name in self.settings.llm_fallback
        return [Link(scripted, Breakers()), *([first] if is_twice else []), *others]

    def set_links(self: Chain, links: list[Link]) -> None:
        vars(self)["links"] = links

    def named(self: Chain, name: str | None) -> tuple[Link, str | None]:
        return self.links[0], name and name.removeprefix(f"{scripted.name}/")

    def append(self: RequestLog, record: dict[str, Any]) -> bool:
        scripted.records.append(record)
        return True

    monkeypatch.setattr(Chain, "links", property(get_links, set_links), raising=False)
    monkeypatch.setattr(Chain, "choices", property(lambda self: [scripted]))
    monkeypatch.setattr(Chain, "named", named)
    monkeypatch.setattr(RequestLog, "append", append)
    return scripted


class BackendContract:
    """What every backend keeps. Derive a class whose name begins with Test, give it a fixture `backend`, run pytest.

    The backend must be able to answer `prompt`, in a real system or in front of a mock.
    """

    prompt = "What is the capital of France?"

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend under test."""
        raise NotImplementedError("give a fixture `backend` that returns yours")

    def _chunks(self, backend: Backend, *, stream: bool) -> list[Chunk]:
        request = GenerationRequest((Message.of("user", self.prompt),), max_tokens=16, stream=stream)
        return list(backend.stream(request, Deadline(CONTRACT_SECONDS)))

    @pytest.mark.parametrize("stream", [False, True])
    def test_only_the_last_chunk_has_a_finish_reason(self, backend: Backend, stream: bool) -> None:
        """An answer is complete with its finish reason, in OpenAI's words, and only then."""
        *pieces, last = self._chunks(backend, stream=stream)
        assert last.finish_reason in ("stop", "length", "tool_calls", "content_filter")
        assert {piece.finish_reason for piece in pieces} <= {None}

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_says_something(self, backend: Backend, stream: bool) -> None:
        """The chunks together are text."""
        assert "".join(chunk.text for chunk in self._chunks(backend, stream=stream)).strip()

    def test_it_has_a_name_and_a_model(self, backend: Backend) -> None:
        """Headers and the log have both."""
        assert backend.name.isprintable()
        assert backend.name
        assert backend.model

    def test_it_can_be_checked(self, backend: Backend) -> None:
        """A backend that can serve passes its check, and lists names of models."""
        backend.check(Deadline(CONTRACT_SECONDS))
        assert all(isinstance(name, str) for name in backend.list_models(Deadline(CONTRACT_SECONDS)))

    def test_it_can_be_left(self, backend: Backend) -> None:
        """Closing the iterator after its first chunk stops it without an error."""
        request = GenerationRequest((Message.of("user", self.prompt),), stream=True)
        chunks = backend.stream(request, Deadline(CONTRACT_SECONDS))
        assert isinstance(next(iter(chunks)), Chunk)
        getattr(chunks, "close", lambda: None)()

    def test_it_minds_the_deadline(self, backend: Backend) -> None:
        """A request whose time is over ends soon, with an answer or with an error of the tree."""
        request = GenerationRequest((Message.of("user", self.prompt),), stream=True)
        started = time.monotonic()
        with suppress(BackendError, RequestError):
            list(backend.stream(request, Deadline(0.01)))
        assert time.monotonic() - started < CONTRACT_SECONDS
