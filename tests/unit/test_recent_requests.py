"""/health tells what became of recent requests, where that says something about the backend."""

from collections.abc import Callable
from typing import Any

import pytest
from asking import GENERATE, Serve, ask
from fakes import Clock, Fake
from flask.testing import FlaskClient

from llm_api.errors import BadCredentials, ModelNotFound, QuotaExhausted, RequestRefused, ServerError, Unreachable
from llm_api.types import Chunk

Health = Callable[[FlaskClient], tuple[int, str, str | None]]


@pytest.fixture
def health(clock: Clock) -> Health:
    """Return a reader of /health that never sees an old report."""

    def read(client: FlaskClient) -> tuple[int, str, str | None]:
        clock.now += 2.1
        answer = client.get("/health")
        return answer.status_code, answer.json["status"], answer.json.get("reason")

    return read


HEALTHY = (200, "healthy", None)


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize(
    "error", [BadCredentials, QuotaExhausted, ModelNotFound, ServerError, Unreachable], ids=lambda kind: kind.__name__
)
def test_a_failure_shows_until_a_success(serve: Serve, health: Health, error: type[Exception], path: str) -> None:
    """A check costs nothing and so sees little; a request that failed says more, and one that succeeds ends it."""
    client = serve(Fake("one", turns=[error("it has no credit")]), Fake("two"))
    assert health(client) == HEALTHY
    assert ask(client, path).status_code == 200
    assert health(client) == (200, "degraded", "one: it has no credit")
    assert ask(client, path).status_code == 200
    assert health(client) == HEALTHY


def test_a_failure_of_the_only_backend_is_unhealthy(serve: Serve, health: Health) -> None:
    """Without a fallback nobody would answer."""
    client = serve(Fake("one", turns=[Unreachable("it is down")]))
    ask(client)
    assert health(client) == (503, "unhealthy", "one: it is down")


def test_a_failure_is_forgotten(serve: Serve, health: Health, clock: Clock) -> None:
    """After ten seconds without requests the check's word counts again."""
    client = serve(Fake("one", turns=[ServerError("it broke")]))
    ask(client)
    clock.now += 7.8
    assert health(client)[1] == "unhealthy"
    clock.now += 0.1
    assert health(client) == HEALTHY


def test_each_backend_has_its_own(serve: Serve, health: Health) -> None:
    """Each is told of with its own reason, and the success of one is none of the other's."""
    one, two = (
        Fake("one", turns=[ServerError("it broke"), Unreachable("it is down")]),
        Fake("two", turns=[QuotaExhausted("no credit")]),
    )
    client = serve(one, two)
    ask(client)
    assert health(client) == (503, "unhealthy", "one: it broke; two: no credit")
    ask(client)
    assert health(client) == (200, "degraded", "one: it is down")


@pytest.mark.parametrize(
    ("turn", "fields"),
    [
        (ModelNotFound("not this model"), {"model": "of-the-clients-own"}),
        (ServerError("not this model"), {"model": "of-the-clients-own"}),
        ([Chunk("no JSON", "stop")], {"response_format": {"type": "json_object"}}),
        (
            [Chunk("{}", "stop")],
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}},
        ),
        (RequestRefused("it is too long"), {}),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
def test_what_the_client_asked_for_says_nothing(
    serve: Serve, health: Health, turn: Any, fields: dict[str, Any], path: str
) -> None:
    """A model, a schema or a prompt of the client's own that doesn't work is no trouble of the backend's."""
    one = Fake("one", turns=[turn])
    client = serve(one)
    assert ask(client, path, **fields).status_code >= 400
    assert len(one.asked) == 1
    assert health(client) == HEALTHY


def test_the_model_that_is_configured_says_something(serve: Serve, health: Health) -> None:
    """A client that names the model which would answer anyhow has chosen nothing."""
    client = serve(Fake("one", turns=[Unreachable("it is down")], model="m"))
    ask(client, model="m")
    assert health(client) == (503, "unhealthy", "one: it is down")
