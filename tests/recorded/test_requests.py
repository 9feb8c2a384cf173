"""Each recorded request, through our front of its dialect to a provider of the same wire: what leaves is what came.

The provider gives the recorded answer, and the client reads from us what it would have read from the provider.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from llm_api import Settings
from llm_api.backends import make_backend

from . import expected
from .cassettes import Exchange, Json, of_kind
from .excused import REQUESTS, why
from .readings import of_claude, of_ollama, same_claude, same_ollama
from .test_answers import ADDRESSES, PATHS, network
from .test_answers import REPLAYED as ANSWERED

Serve = Callable[..., FlaskClient]


@dataclass(frozen=True)
class Front:
    """A dialect of ours: its route, and the wire it is sent on in."""

    rule: str
    wire: str
    same: Callable[[Json], Json]


def chat(body: Json) -> Json:
    """Return a chat's body without what may differ: each line says why."""
    body = copy.deepcopy(body)
    body.setdefault("stream", False)  # what goes without saying is said
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}  # the log and the metrics want the counts of every stream
    if body.get("tool_choice") == "auto":
        del body["tool_choice"]  # what goes without saying
    body.pop("service_tier", None)  # what the operator pays, a client can't choose
    for message in body["messages"]:
        message.pop("annotations", None)  # the provider's own, of an answer; it wants none back
        if message.get("refusal", ...) is None:
            del message["refusal"]  # null is not said
        if "tool_calls" in message:
            message["content"] = message.get("content") or None  # a message of calls has no words, however it says so
    return body


def completion(body: Json) -> Json:
    """Return the chat as which a completion is sent on."""
    if "prompt" not in body:
        return body
    body = {"stream": False} | body
    (prompt,) = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    del body["prompt"]
    return chat(body | {"messages": [{"role": "user", "content": prompt}]})


def messages(body: Json) -> Json:
    """Return a body of Messages without what may differ: each line says why."""
    return {"stream": False} | body  # what goes without saying is said


FRONTS = {
    "openai": Front("/v1/chat/completions", "openai", chat),
    "completions": Front("/v1/completions", "openai", completion),
    "claude": Front("/v1/messages", "claude", messages),
}
# What is read of requests in their providers' dialects, and what of them may differ.
READINGS = {"claude": (of_claude, same_claude), "ollama": (of_ollama, same_ollama)}


REPLAYED = [exchange for exchange in of_kind(*FRONTS, *READINGS) if not why(exchange, REQUESTS)]
# Claude is sent what it alone knows too.
SENT = [exchange for exchange in of_kind(*FRONTS) if exchange.kind == "claude" or not why(exchange, REQUESTS)]

# A system's turn may add tools by now: the service does not know those, and takes a call of them for no answer.
READ = [x for x in SENT if x.kind != "completions" and x in ANSWERED and "tool_addition" not in json.dumps(x.asked)]


def replayed(*kinds: str) -> list[Exchange]:
    return [exchange for exchange in REPLAYED if exchange.kind in kinds]


def behind(serve: Serve, exchange: Exchange) -> tuple[TestResponse, list[Json]]:
    """Ask our service before a provider that gives the recorded answer; return its reply, and what the provider got."""
    front = FRONTS[exchange.kind]
    client = serve(**ADDRESSES, llm_backend=front.wire, max_prompt_chars=1_000_000)
    with network(replace(exchange, url=PATHS[front.wire])) as far_end:
        reply = client.post(front.rule, json={"model": "default"} | exchange.asked, buffered=True)
        return reply, [json.loads(call.request.body) for call in far_end.calls]


@pytest.mark.parametrize("exchange", SENT, ids=str)
def test_request(make_client: Serve, exchange: Exchange) -> None:
    """Messages, calls, results, pictures, tools, choice and parameters leave as they came."""
    reply, sent = behind(make_client, exchange)
    assert sent, reply.data
    same = FRONTS[exchange.kind].same
    unnamed = {} if "model" in exchange.asked else {"model": sent[0]["model"]}
    assert same(sent[0]) == same(exchange.asked | unnamed)


@pytest.mark.parametrize("exchange", READ, ids=str)
def test_what_the_client_reads(make_client: Serve, exchange: Exchange) -> None:
    """The provider's client reads from us what it reads from the provider, but for the model's name."""
    reply, _ = behind(make_client, exchange)
    through = replace(exchange, answer=reply.data, status=reply.status_code)
    said, got = expected.outcome(exchange), expected.outcome(through)
    if not isinstance(said, expected.Said):
        assert got == said
        return
    assert isinstance(got, expected.Said), got
    counted = exchange.kind == "claude" or exchange.asked.get("stream_options") or not exchange.is_streamed
    assert got == replace(
        said,
        model=f"{exchange.kind}/{said.model}",
        usage=said.usage if counted else expected.counted({}),
        finish="tool_calls" if said.calls else said.finish,  # OpenAI says `stop` where a call was forced
    )


@pytest.mark.parametrize("exchange", [x for x in of_kind(*FRONTS) if x not in SENT], ids=str)
def test_refused(make_client: Serve, exchange: Exchange) -> None:
    """What can't be sent on is refused by its name, and never sent without."""
    reply, sent = behind(make_client, exchange)
    assert (reply.status_code, sent) == (400, [])
    assert reply.json["error"]["param"] in ("functions", "function_call", "n", "messages")


@pytest.mark.parametrize("exchange", replayed(*READINGS), ids=str)
def test_written(exchange: Exchange) -> None:
    """What a request means, in the middle language, is written by our backend as it came."""
    read, same = READINGS[exchange.kind]
    request = read(exchange.asked)
    backend = make_backend(exchange.kind, Settings(**ADDRESSES))
    assert same(backend.payload(request)) == same({"model": backend.model} | exchange.asked)
