"""Ollama's API as a front: what its own client reads, what its command line sends, and what clients leave out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from asking import Log, Serve, lines_of
from fakes import Fake
from flask import Flask
from providers import OLLAMA, FarEnd, sent

from llm_api import LLMAPI
from llm_api.dialects.ollama import OllamaChat
from llm_api.errors import ServerError
from llm_api.rules import ApiKey
from llm_api.types import CallPiece, Chunk, Image, Message, Reasoning, Text, ToolCall, ToolResult, Usage

USER = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "default", "messages": [USER]}
GIF = "R0lGODlh"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLS = (
    Chunk(calls=(CallPiece(0, "c1", "add", '{"a"'),)),
    Chunk(calls=(CallPiece(0, arguments=": 1}"),)),
    Chunk(calls=(CallPiece(1, "c2", "sub", ""),)),
)


class Tooled(Fake):
    """A backend that calls tools, thinks, and sees images."""

    serves = Fake.serves | {"tools", "images"}


@pytest.fixture
def client_of(make_app: Callable[..., Flask]) -> Callable[..., ollama.Client]:
    """Return a maker of Ollama's own client of an app with backends."""

    def make(*backends: Fake, **settings: Any) -> ollama.Client:
        client = ollama.Client("http://localhost")
        client._client = httpx.Client(
            transport=httpx.WSGITransport(make_app(*backends, **settings)), base_url="http://localhost"
        )
        return client

    return make


# Answers, as its own client reads them


def test_chat_of_its_client(client_of: Callable[..., ollama.Client], log_lines: Log) -> None:
    """Whole and in pieces it is the same text, with counts, times and the reason of its end."""
    client = client_of(Fake("one"))
    whole = client.chat("one-model:latest", [USER])
    pieces = list(client.chat("default", [USER], stream=True))
    assert whole.message.content == "".join(piece.message.content or "" for piece in pieces) == "one"
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for last in (whole, pieces[-1]):
        assert (last.done, last.done_reason, last.prompt_eval_count, last.eval_count) == (True, "stop", 3, 2)
        assert (last.total_duration or 0) > 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", last.created_at or "")
    assert [line["operation"] for line in log_lines()] == ["chat", "chat"]


def test_generate_of_its_client(client_of: Callable[..., ollama.Client], log_lines: Log) -> None:
    """As a prompt with its system message and options."""
    fake = Fake("one")
    client = client_of(fake)
    said = client.generate("default", "Hi", system="Be brief", options={"num_predict": 5, "seed": 7, "mirostat": 1})
    assert (said.response, said.done_reason) == ("one", "stop")
    assert "".join(piece.response for piece in client.generate("default", "Hi", stream=True)) == "one"
    asked = fake.asked[0]
    assert (asked.max_tokens, asked.seed, asked.system, asked.is_prompt) == (5, 7, "Be brief", True)
    assert (log_lines()[0]["prompt"], log_lines()[0]["operation"]) == ("Hi", "generate")


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_and_calls(client_of: Callable[..., ollama.Client], stream: bool) -> None:
    """Thoughts come first, each call whole in a line of its own with an object, and the end is `stop`."""
    fake = Tooled(
        "one", Chunk(reasoning=(Reasoning("hm"),)), Chunk("So: "), *CALLS, Chunk("", "tool_calls", Usage(3, 2))
    )
    answer = client_of(fake).chat("default", [USER], tools=[TOOL], stream=stream)
    parts = list(answer) if stream else [answer]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("add", {"a": 1}), ("sub", {})]
    assert "".join(part.message.thinking or "" for part in parts) == "hm"
    assert (parts[-1].done_reason, len(parts)) == ("stop", 5 if stream else 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut(client_of: Callable[..., ollama.Client], stream: bool) -> None:
    """There is no object for it: the end is `length`, and the call is left out."""
    fake = Tooled("one", CALLS[0], Chunk("", "length"))
    answer = client_of(fake).chat("default", [USER], tools=[TOOL], stream=stream)
    parts = list(answer) if stream else [answer]
    assert ([part.message.tool_calls for part in parts], parts[-1].done_reason) == ([None], "length")


def test_vectors_of_its_client(client_of: Callable[..., ollama.Client]) -> None:
    """By the newer route for several texts, by the older for one."""
    fake = Fake("one")
    fake.vector = lambda text: [float(len(text)), 0.5]
    client = client_of(fake)
    many = client.embed("default", ["a", "bcd"])
    assert (many.embeddings, many.prompt_eval_count) == ([[1.0, 0.5], [3.0, 0.5]], 2)
    assert client.embeddings("one-embed:latest", "ab").embedding == [2.0, 0.5]
    with pytest.raises(ollama.ResponseError, match="input"):
        client.embed("default", "")


def test_its_lists(client_of: Callable[..., ollama.Client]) -> None:
    """Names with digests that its command line can cut, abilities as its pickers look for them."""
    fake = Tooled("one", models=["one-model", "one-embed"])
    fake.vector = lambda text: [1.0]
    client = client_of(fake)
    listed = client.list().models
    assert [model.model for model in listed] == ["one/one-model", "one/one-embed"]
    assert {len(model.digest or "") for model in listed} == {64}
    assert client.ps().models == []
    for name in ("one/one-model", "one-model:latest", "default"):
        assert client.show(name).capabilities == ["completion", "tools", "vision"]
    assert client.show("one-embed").capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError, match="model 'none' not found") as missing:
        client.show("none")
    assert missing.value.status_code == 404


def test_what_is_not_served(client_of: Callable[..., ollama.Client]) -> None:
    """Models are the operator's to choose: 501 with its reason."""
    client = client_of()
    for call in (client.pull, client.push, client.delete, lambda name: client.copy(name, "b")):
        with pytest.raises(ollama.ResponseError, match="the operator chooses") as refused:
            call("a")  # type: ignore[operator]
        assert refused.value.status_code == 501


# Errors


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"messages": [USER]}, 400),
        ("/api/chat", CHAT | {"format": "yaml"}, 400),
        ("/api/chat", CHAT | {"options": {"temperature": "hot"}}, 400),
        ("/api/chat", CHAT | {"think": "a lot"}, 400),
        ("/api/chat", CHAT | {"messages": [USER | {"images": ["data:image/gif;base64," + GIF]}]}, 400),
        ("/api/chat", CHAT | {"messages": [{"role": "system", "content": "Hi", "images": [GIF]}]}, 400),
        ("/api/generate", {"model": "default", "prompt": "Hi", "raw": True}, 400),
        ("/api/generate", {"model": "default", "prompt": "Hi", "suffix": "end"}, 400),
        ("/api/generate", {"model": "default", "prompt": "Hi", "context": [1, 2]}, 400),
        ("/api/generate", {"model": "default", "prompt": "Hi" * 600}, 400),
        ("/api/chat", CHAT | {"logprobs": True}, 400),
        ("/api/chat", CHAT | {"top_logprobs": 2}, 400),
        ("/api/generate", {"model": "default", "prompt": "Hi", "logprobs": True}, 400),
        ("/api/nothing", {}, 404),
        ("/api/tags", {}, 405),
    ],
)
def test_errors_are_a_text(make_client: Serve, path: str, body: Any, status: int) -> None:
    """Its client shows whatever is under `error`."""
    reply = make_client(max_prompt_chars=1000).post(path, json=body)
    assert (reply.status_code, reply.get_json().keys()) == (status, {"error"})
    assert isinstance(reply.get_json()["error"], str)


@pytest.mark.parametrize("path", ["/api/chat", "/api/show"])
@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded"])
def test_its_documentation_names_no_type(make_client: Serve, path: str, kind: str | None) -> None:
    """A body comes as `curl -d` sends it; from a page it may not."""
    client, sent = make_client(), {"data": json.dumps(CHAT), "content_type": kind}
    assert client.post(path, **sent).status_code == 200
    refused = client.post(path, **sent, headers={"Origin": "https://other.example"})
    assert (refused.status_code, type(refused.get_json()["error"])) == (415, str)


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/api/chat", "/api/show"])
def test_a_missing_key_is_a_text(make_client: Serve, path: str) -> None:
    """On the routes that answer and on the others; with the key its client is let in."""
    client = make_client(api_keys=(ApiKey("a", hashlib.sha256(b"12345678").hexdigest()),))
    reply = client.post(path, json=CHAT) if path in ("/api/chat", "/api/show") else client.get(path)
    assert (reply.status_code, reply.get_json().keys()) == (401, {"error"})
    assert client.get("/api/tags", headers={"Authorization": "Bearer 12345678"}).status_code == 200


def test_a_stream_that_breaks(make_client: Serve) -> None:
    """Its last line has the error, and is not `done`."""
    lines = lines_of(make_client(Fake("one", Chunk("Hi"), ServerError("it broke"))).post("/api/chat", json=CHAT))
    assert lines[0]["message"]["content"] == "Hi"
    assert lines[-1] == {"error": "it broke"}


# Requests


def read(**fields: Any) -> Any:
    return OllamaChat(100, 100).read(CHAT | fields).request


def test_empty_means_not_said() -> None:
    """As the command line sends all fields."""
    empty = {"format": "", "options": {}, "think": None, "tools": [], "keep_alive": None}
    assert read(**empty) == read()
    assert read().stream
    assert read(options={"num_predict": -1, "stop": None}).max_tokens is None


OPTIONS = {"num_ctx": 8192, "top_k": 3, "num_predict": 9, "max_tokens": "not its word", "stop": None, "mirostat": ""}
MORE = {"options": OPTIONS, "keep_alive": "5m", "truncate": True, "suffix": "", "newer": {}, "logprobs": False}


def test_options_reach_an_ollama(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """Those that it alone has, beside ours; the log has them, and what nobody is told is named."""
    answer = {"model": "m", "message": {"role": "assistant", "content": "Hi"}, "done": True, "done_reason": "stop"}
    far_end.post(OLLAMA.url, json=answer)
    reply = make_client(**OLLAMA.settings).post("/api/chat", json=CHAT | MORE | {"stream": False})
    assert reply.headers["X-LLM-Ignored"] == "keep_alive, truncate"
    told = {"num_ctx": 8192, "top_k": 3, "max_tokens": "not its word"}
    assert sent(far_end)["options"] == told | {"num_predict": 9}
    assert log_lines()[-1]["parameters"] == {"max_tokens": 9, "options": told}


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), ("/api/generate", {"model": "m", "prompt": "Hi"})])
def test_options_of_another(make_client: Serve, path: str, body: dict[str, Any]) -> None:
    """A backend that has no such words is told nothing, and the client that."""
    reply = make_client(Fake("one")).post(path, json=body | MORE, buffered=True)
    named = {"keep_alive", "truncate", "options.num_ctx", "options.top_k", "options.max_tokens"}
    assert (reply.status_code, set(reply.headers["X-LLM-Ignored"].split(", "))) == (200, named)


def test_what_ollama_takes() -> None:
    """More stops than OpenAI, and a tool whose type goes without saying."""
    stops = ["a", "b", "c", "d", "e"]
    assert [read(options={"stop": said}).stop for said in (stops, "a")] == [tuple(stops), ("a",)]
    assert read(tools=[{"function": TOOL["function"]}]) == read(tools=[TOOL])


def test_formats() -> None:
    """`json` or a schema, whose cut answer the client learns of."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert (read(format="json").response_format.schema, read(format=schema).response_format.schema) == (None, schema)


@pytest.mark.parametrize(("think", "effort"), [(False, "none"), (True, "medium"), ("high", "high"), ("max", "xhigh")])
def test_thinking(think: Any, effort: str) -> None:
    """How much is thought, in our words."""
    assert read(think=think).reasoning_effort == effort


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"a": 1}}} | more


def result(**more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": "4"} | more


@pytest.mark.parametrize(
    ("calls", "results", "answered"),
    [
        ([call("f"), call("g")], [result(tool_name="g"), result(tool_name="f")], ["call_1", "call_0"]),
        ([call("f"), call("f")], [result(tool_name="f"), result(tool_name="f")], ["call_0", "call_1"]),
        ([call("f"), call("g")], [result(), result()], ["call_0", "call_1"]),
        ([call("f", id="x"), call("g", id="y")], [result(tool_call_id="y"), result()], ["y", "x"]),
        ([call("f", id="x"), call("g")], [result(tool_name="f"), result(tool_name="odd")], ["x", "call_1"]),
        ([], [result(tool_name="f")], ["f"]),
    ],
)
def test_results_find_their_calls(calls: Any, results: Any, answered: list[str]) -> None:
    """By id, else by name, else by order: its client sends no ids, and LangChain no names."""
    said = read(messages=[USER, {"role": "assistant", "tool_calls": calls}, *results]).messages
    assert [message.parts[0].call_id for message in said[2:]] == answered


def test_a_conversation() -> None:
    """Images, thoughts and calls, as the middle language has them."""
    assistant = {"role": "assistant", "thinking": "hm", "content": "", "tool_calls": [call("f")]}
    said = read(messages=[USER | {"images": [GIF]}, assistant, result(images=[GIF])]).messages
    picture = Image("image/gif", GIF)
    assert said == (
        Message("user", (picture, Text("Hi"))),
        Message("assistant", (Reasoning("hm"), Text(""), ToolCall("call_0", "f", '{"a": 1}'))),
        Message("tool", (ToolResult("call_0", (picture, Text("4"))),)),
    )


@pytest.mark.parametrize(
    ("body", "reason"), [({}, "load"), ({"keep_alive": "5m"}, "load"), ({"keep_alive": 0}, "unload")]
)
def test_loading(make_client: Serve, log_lines: Log, body: dict[str, Any], reason: str) -> None:
    """What asks for no answer is answered at once, and no backend is asked; its line says so."""
    fake = Fake("one")
    client = make_client(fake)
    for path, more in (("/api/generate", {"prompt": ""}), ("/api/chat", {"messages": []})):
        said = client.post(path, json={"model": "one-model"} | more | body).get_json()
        assert (said["done"], said["done_reason"], said["model"]) == (True, reason, "one-model")
    assert fake.asked == []
    assert [(line["status"], line["backend"]) for line in log_lines()] == [("ok", None)] * 2


# What the command line sends


def test_command_line(make_client: Serve) -> None:
    """`HEAD /`, show by `name` with an empty `model`, generate with empty fields (recorded of Ollama 0.24.0)."""
    client = make_client(Fake("one"))
    assert client.head("/").status_code == 200
    shown = client.post(
        "/api/show", json={"model": "", "system": "", "template": "", "verbose": False, "name": "one-model"}
    )
    assert "completion" in shown.get_json()["capabilities"]
    body = {"model": "one-model", "prompt": "Say hi", "suffix": "", "system": "", "template": "", "options": {}}
    assert lines_of(client.post("/api/generate", json=body))[-1]["done"] is True
    assert client.post("/api/show", json={"name": "nope", "model": ""}).status_code == 404
    refused = client.post("/api/pull", json={"model": "nope", "name": "nope"})
    assert (refused.status_code, refused.mimetype) == (501, "application/json")


@pytest.mark.parametrize(
    ("accept", "kind"), [(None, "text/plain"), ("*/*", "text/plain"), ("text/html,*/*;q=0.8", "text/html")]
)
def test_the_probe(make_client: Serve, accept: str | None, kind: str) -> None:
    """Browsers get the playground, others what Ollama says."""
    reply = make_client().get("/", headers={"Accept": accept} if accept else {}, buffered=True)
    assert (reply.mimetype, reply.text == "Ollama is running") == (kind, kind == "text/plain")


# Which fronts there are


def routes(app: Flask) -> Iterator[str]:
    return (rule.rule for rule in app.url_map.iter_rules())


@pytest.mark.parametrize(
    ("fronts", "there", "gone"),
    [
        (("generate",), "/generate", "/v1/models"),
        (("openai",), "/v1/embeddings", "/api/chat"),
        (("anthropic",), "/v1/models", "/generate"),
        (("ollama",), "/api/tags", "/v1/messages"),
    ],
)
def test_fronts(make_app: Callable[..., Flask], fronts: tuple[str, ...], there: str, gone: str) -> None:
    """Only the chosen ones have routes, and are described."""
    app = make_app(fronts=fronts)
    found = set(routes(app))
    assert (there in found, gone in found, "/health" in found) == (True, False, True)
    described = app.test_client().get("/openapi.json").get_json()["paths"].keys()
    assert gone not in described
    assert app.test_client().get("/", buffered=True).mimetype == ("text/plain" if "ollama" in fronts else "text/html")


def test_fronts_of_an_extension(log_path: Any) -> None:
    """A host's own /api is its own."""
    app = Flask("host")
    app.get("/api/tags")(lambda: "ours")
    LLMAPI(app, fronts=("openai",), llm_backend="stub", log_file=str(log_path))
    assert app.test_client().get("/api/tags").text == "ours"
    assert json.loads(app.test_client().get("/config").text)["fronts"] == ["openai"]


# What was recorded of a real Ollama

FILE = Path(__file__).parents[1] / "recorded" / "ollama.jsonl"
RECORDED = [json.loads(line) for line in FILE.read_text().splitlines()]
KINDS = {"/api/chat": ollama.ChatResponse, "/api/generate": ollama.GenerateResponse, "/api/embed": ollama.EmbedResponse}
# An empty text has no vector here, and no token its probability, which is said; a broken stream has a test above.
OURS = {"embed none", "embed empty text", "runner killed in mid-stream", "chat logprobs"}
ANSWERED = [r for r in RECORDED if r["request"]["path"] in KINDS and r["status"] == 200 and r["name"] not in OURS]


def said(lines: list[dict[str, Any]]) -> tuple[str, str, list[Any]]:
    """Return the text, the thoughts and the calls of an answer in lines."""
    parts = [line.get("message") or line for line in lines]
    text = "".join(part.get("content") or part.get("response") or "" for part in parts)
    calls = [call["function"] for part in parts for call in part.get("tool_calls") or ()]
    return text, "".join(part.get("thinking") or "" for part in parts), calls


@pytest.mark.parametrize("recorded", ANSWERED, ids=lambda recorded: recorded["name"])
def test_recorded_requests(make_client: Serve, recorded: dict[str, Any]) -> None:
    """What a real Ollama has answered is answered here: the same words and calls, fields of the same names."""
    theirs = [json.loads(line) for line in recorded["body"].splitlines()]
    text, thought, calls = said(theirs)
    pieces = tuple(
        CallPiece(call["index"], "", call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in calls
    )
    reasons = {"stop": "tool_calls" if calls else "stop", "load": "stop", "unload": "stop"}
    end = Chunk("", reasons.get(theirs[-1].get("done_reason"), "length"), Usage(3, 2))
    backend = Tooled("one", Chunk(text, reasoning=(Reasoning(thought),), calls=pieces), end)
    backend.vector = lambda text: [1.0] * 8
    path, body = recorded["request"]["path"], recorded["request"]["body"]
    reply = make_client(backend).post(path, json=body | {"model": "default"})
    assert (reply.status_code, reply.mimetype) == (200, recorded["content_type"].partition(";")[0]), reply.text
    ours = [json.loads(line) for line in reply.text.splitlines()]
    assert said(ours) == (text, thought, calls)
    assert ours[-1].keys() | {"context"} >= theirs[-1].keys()
    for line in ours:
        KINDS[path].model_validate(line)


@pytest.mark.parametrize(
    "recorded", [r for r in RECORDED if r["status"] in (400, 500)], ids=lambda recorded: recorded["name"]
)
def test_recorded_refusals(make_client: Serve, recorded: dict[str, Any]) -> None:
    """Of what a real Ollama has refused, nothing ends otherwise than in an answer or an error's text."""
    request = recorded["request"]
    reply = make_client(Tooled("one")).open(request["path"], method=request["method"], json=request["body"])
    assert reply.status_code in (200, 400, 415, 502)  # what the fake says fits no schema
    assert reply.status_code == 200 or reply.get_json().keys() == {"error"}


def test_an_alias_is_shown_as_what_it_stands_for(serve: Serve) -> None:
    """`ollama run llama3.2` asks for it first."""
    client = serve(Fake("one"), model_aliases={"llama3.2": "default", "gone": "no-such"})
    assert client.post("/api/show", json={"model": "llama3.2:latest"}).status_code == 200
    assert [client.post("/api/show", json={"model": name}).status_code for name in ("gone", "")] == [404, 404]
