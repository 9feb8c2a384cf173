"""How many requests run at once: the rest are refused at once, and every end of a request frees its place."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import GENERATE, Log, Serve, ask
from fakes import ANSWER, Fake
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from llm_api import Settings
from llm_api.errors import RequestRefused, ServerError
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk

every_route = pytest.mark.parametrize("path", GENERATE)


def begin(client: FlaskClient, path: str = "/generate", **fields: Any) -> TestResponse:
    """Ask for a stream, and read none of it: it holds its place."""
    return client.post(path, json=GENERATE[path][0] | {"stream": True} | fields)


def check_refused(answer: TestResponse) -> None:
    error = {"code": "no_capacity", "param": None, "message": "as many requests run as may at once (MAX_CONCURRENCY)"}
    kind = "overloaded_error" if "type" in answer.json else "server_error"
    assert (answer.status_code, answer.json["error"]) == (503, error | {"type": kind})
    assert answer.headers["Retry-After"] == "1"
    assert "x-should-retry" not in answer.headers


@every_route
@pytest.mark.parametrize("first", GENERATE)
def test_one_too_many(serve: Serve, log_lines: Log, first: str, path: str) -> None:
    """While one waits for its backend in another thread, the next is refused, and no backend is asked for it."""
    entered, go_on = threading.Event(), threading.Event()

    def wait(_: Deadline) -> None:
        entered.set()
        assert go_on.wait(20), "the test never let it go"

    one, two = Fake("one", turns=[wait]), Fake("two")
    client = serve(one, two, max_concurrency=1)
    answers: list[TestResponse] = []
    running = threading.Thread(target=lambda: answers.append(ask(client.application.test_client(), first)))
    running.start()
    try:
        assert entered.wait(20)
        check_refused(ask(client, path))
        check_refused(ask(client, path, stream=True))
    finally:
        go_on.set()
        running.join(20)
    assert [answer.status_code for answer in answers] == [200]
    assert (len(one.asked), len(two.asked)) == (1, 0)
    refused, _, ok = log_lines()
    assert (ok["status"], ok["operation"]) == ("ok", GENERATE[first][1])
    assert (refused["status"], refused["http_status"], refused["error"]["code"]) == ("error", 503, "no_capacity")
    assert (refused["operation"], refused["attempts"], refused["backend"]) == (GENERATE[path][1], [], None)


Ending = Callable[[FlaskClient], object]


def abandon(client: FlaskClient) -> None:
    begin(client).close()


def abandon_in_the_middle(client: FlaskClient, path: str = "/generate") -> None:
    answer = begin(client, path)
    next(iter(answer.response))
    answer.close()


HALF = [Chunk("Hi "), Chunk("there")]
ENDINGS: dict[str, tuple[Any, Ending]] = {
    "success": (ANSWER, ask),
    "stream": (ANSWER, lambda client: ask(client, stream=True)),
    "chat stream": (ANSWER, lambda client: ask(client, "/v1/chat/completions", stream=True)),
    "error": (ServerError("m"), ask),
    "error in a stream": ([Chunk("Hi "), ServerError("m")], lambda client: ask(client, stream=True)),
    "bug": (RuntimeError("m"), ask),
    "bug in a stream": ([Chunk("Hi "), RuntimeError("m")], lambda client: ask(client, stream=True)),
    "refused by the backend": (RequestRefused("m"), ask),
    "cut short": (HALF, ask),
    "cut short in a stream": (HALF, lambda client: ask(client, stream=True)),
    "stream that was never read": (ANSWER, abandon),
    "stream that was left": (HALF, abandon_in_the_middle),
    "chat stream that was left": (HALF, lambda client: abandon_in_the_middle(client, "/v1/chat/completions")),
    "wrong field": (ANSWER, lambda client: ask(client, prompt="")),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_end_frees_the_place(serve: Serve, ending: str) -> None:
    """However a request ends, the next one finds its place free: not one is lost, and none is freed twice."""
    turn, end = ENDINGS[ending]
    client = serve(Fake("one", turns=[turn, turn]), max_concurrency=1)
    end(client)
    end(client)
    holding = begin(client)
    check_refused(ask(client))
    holding.close()
    assert ask(client).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_line_that_is_not_written_frees_the_place(serve: Serve, log_path: Path, stream: bool) -> None:
    """A request that can't be logged holds nothing either."""
    log_path.parent.write_text("a file where the log's folder should be")
    client = serve(Fake("one"), max_concurrency=1)
    assert ["log_unavailable" in ask(client, stream=stream).text for _ in range(2)] == [True, True]
    log_path.parent.unlink()
    assert ask(client).status_code == 200


def test_a_stream_holds_its_place_to_its_end(serve: Serve) -> None:
    """A place is free when the answer has left, not when it begins."""
    client = serve(Fake("one"), max_concurrency=1)
    answer = begin(client)
    pieces = iter(answer.response)
    next(pieces)
    check_refused(ask(client))
    list(pieces)
    answer.close()
    assert ask(client).status_code == 200


def test_a_refused_request_frees_nobodys_place(serve: Serve) -> None:
    """Who never had a place gives none back."""
    client = serve(Fake("one"), max_concurrency=1)
    holding = begin(client)
    for _ in range(3):
        check_refused(ask(client))
    holding.close()


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({}, 16),
        ({"hf_slots": 3}, 6),
        ({"threads": 8}, 6),
        ({"max_concurrency": 40}, 40),
        ({"hf_mode": "cloud"}, 1022),
    ],
    ids=str,
)
def test_places_at_a_local_model(settings: dict[str, Any], places: int) -> None:
    """As many requests as a local model answers at once, and as many again, so that nobody waits for too long."""
    assert Settings(llm_backend="huggingface", **settings).concurrency == places


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({"max_concurrency": 1}, 1),
        ({"max_concurrency": 3}, 3),
        ({"max_concurrency": 5, "threads": 2}, 5),
        ({"threads": 5}, 3),
        ({"threads": 3}, 1),
        ({"threads": 2}, 1),
        ({"threads": 1}, 1),
        ({}, 1022),
    ],
    ids=str,
)
def test_number_of_places(serve: Serve, settings: dict[str, int], places: int) -> None:
    """MAX_CONCURRENCY, or two fewer than THREADS, and one in any case."""
    client = serve(Fake("one"), **settings)
    answers = [begin(client) for _ in range(places + 1)]
    assert [answer.status_code for answer in answers] == [200] * places + [503]
    check_refused(answers[-1])
    for answer in answers:
        answer.close()


def test_two_apps_have_places_of_their_own(serve: Serve) -> None:
    """The number is one app's, not the process's."""
    one, other = (serve(Fake("one"), max_concurrency=1) for _ in range(2))
    holding = begin(one)
    assert ask(other).status_code == 200
    holding.close()


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics", "/config", "/v1/models", "/openapi.json"])
def test_the_rest_always_answers(serve: Serve, path: str) -> None:
    """Whoever looks after the service is not refused."""
    client = serve(Fake("one"), max_concurrency=1)
    holding = begin(client)
    assert client.get(path).status_code == 200
    holding.close()
