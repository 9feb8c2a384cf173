"""The description of the API says what the API does, wherever it hangs; the Postman collection is made from it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from asking import Serve
from fakes import Fake
from flask import Flask
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31

from llm_api import LLMAPI
from llm_api.errors import ValidationFailed
from tools import openapi, postman

Make = Callable[..., Any]
Document = dict[str, Any]

HIDDEN = re.compile(r"llm_api\.(openapi|pages\..*|ollama_(pull|push|create|copy|delete|blobs))")


@pytest.fixture
def document(make_client: Serve) -> Document:
    return make_client().get("/openapi.json").get_json()


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        yield from ((path, method, operation) for method, operation in methods.items())


def holds(document: Document, schema: dict[str, Any], value: object) -> list[str]:
    """Return what is wrong with `value`, held against `schema`, whose references point into `document`."""
    whole = schema | {"components": document["components"]}
    return [error.message for error in Draft202012Validator(whole).iter_errors(value)]


def misfits(document: Document, reply: Any, operation: dict[str, Any]) -> list[str]:
    """Return what in `reply` is not as `operation` documents it: the status, headers, type and body."""
    answer = operation["responses"].get(str(reply.status_code))
    if answer is None:
        return [f"{reply.status_code} is not documented"]
    missing = [name for name, header in answer["headers"].items() if header["required"] and name not in reply.headers]
    if reply.mimetype not in answer["content"]:
        return [*missing, reply.mimetype]
    body = reply.get_json() if reply.is_json else reply.get_data(as_text=True)
    return missing + holds(document, answer["content"][reply.mimetype]["schema"], body)


# The document


def test_document_is_openapi(document: Document) -> None:
    """It fits the OpenAPI Initiative's own schema of 3.1, and each of its schemas is a JSON Schema."""
    assert document["openapi"] == "3.1.0"
    assert [error.message for error in Draft202012Validator(OPENAPI_31).iter_errors(document)] == []
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Yield each object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas(inner)


def test_it_says_what_it_describes(document: Document) -> None:
    """Title, version (pip's, also in a folder that isn't installed) and a description are there."""
    info = document["info"]
    assert (info["title"], bool(info["description"])) == ("LLM API", True)
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["version"])


def test_enumerations_are_of_texts(document: Document) -> None:
    """Makers of clients leave out a route with an enumeration of anything else, without a type or without a value."""
    found = [schema for schema in schemas(document) if isinstance(schema.get("enum"), list)]
    assert len(found) > 5
    for schema in found:
        assert schema["type"] == "string"
        assert schema["enum"]
        assert all(isinstance(value, str) for value in schema["enum"])


def test_references_lead_somewhere(document: Document) -> None:
    """Each reference names a schema that is there, and each schema is named by one."""
    named = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert named == set(document["components"]["schemas"])


def test_each_public_route_is_described(make_app: Callable[..., Flask], document: Document) -> None:
    """A route without a description is missed here, and so is a description without a route."""
    rules = [rule for rule in make_app().url_map.iter_rules() if not HIDDEN.fullmatch(rule.endpoint)]
    routes = {
        (re.sub(r"<(?:path:)?(\w+)>", r"{\1}", r.rule), m) for r in rules for m in r.methods - {"HEAD", "OPTIONS"}
    }
    assert {(path, method.upper()) for path, method, _ in operations(document)} == routes


def test_views_docstrings_are_the_text(make_app: Callable[..., Flask], document: Document) -> None:
    """What is said of a route stands in its view and nowhere else."""
    app = make_app()
    for path, method, operation in operations(document):
        endpoint, _ = app.url_map.bind("").match(path, method.upper())
        said = f"{operation['summary']}\n\n{operation['description']}".strip()
        assert said == inspect.cleandoc(app.view_functions[endpoint].__doc__)


def test_limits_are_the_settings(make_client: Serve) -> None:
    """The lengths that are described are those of this service, not the defaults."""
    text = make_client(max_prompt_chars=7777).get("/openapi.json").get_data(as_text=True)
    schemas = json.loads(text)["components"]["schemas"]
    assert schemas["Generate"]["properties"]["prompt"]["maxLength"] == 7777
    assert schemas["Chat"]["properties"]["messages"]["description"].endswith("1 to 7,777 characters.")
    assert "MAX_PROMPT_CHARS" not in text


def test_description_is_made_from_schemas_and_views() -> None:
    """The description in the repository is the one that its maker makes now."""
    assert openapi.served.FILE.read_text() == openapi.text(), "out of step: run make openapi"


def test_what_is_not_served_is_not_described(make_client: Serve) -> None:
    """Where FRONTS leaves out an API, so are its routes and what only they refer to."""
    document = make_client(fronts=("openai",)).get("/openapi.json").get_json()
    assert {path.split("/")[1] for path in document["paths"]} == {"v1", "health", "config", "metrics"}
    assert "/v1/messages" not in document["paths"]
    test_references_lead_somewhere(document)


# What it says is so


def examples(document: Document) -> Iterator[tuple[str, str, dict[str, Any], Any]]:
    """Yield each documented request: its path, method, operation and body."""
    for path, method, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        for example in content["examples"].values() if content else [{"value": None}]:
            yield path, method, operation, example["value"]


def test_examples_are_answered_as_described(make_client: Serve, document: Document) -> None:
    """Each documented request is accepted, and its answer is the documented one."""
    backend = Fake("stub", model="stub")
    backend.vector = lambda text: [1.0]
    client = make_client(backend)
    asked = list(examples(document))
    assert len(asked) >= 13
    for path, method, operation, body in asked:
        reply = client.open(path.format(model="stub/stub"), method=method.upper(), json=body)
        kinds = list(operation["responses"]["200"]["content"])
        kind = kinds[-1] if (body or {}).get("stream") else kinds[0]
        assert (reply.status_code, reply.mimetype, misfits(document, reply, operation)) == (200, kind, []), body


def test_examples_fit_the_described_bodies(document: Document) -> None:
    """Each documented request fits the schema it stands beside."""
    for _, _, operation, body in examples(document):
        if body:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert holds(document, schema, body) == []


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/generate", {"json": {}}, 422),
        ("/generate", {"data": "{", "content_type": "application/json"}, 400),
        ("/generate", {"data": "prompt=Hello"}, 415),
        ("/generate", {"json": {"prompt": "x" * 2000}}, 413),
        ("/generate", {"json": {"prompt": "Hello", "response_format": {"type": "json_object"}}}, 400),
        ("/v1/chat/completions", {"json": {"model": "default"}}, 400),
        ("/v1/completions", {"json": {"model": "default", "prompt": ""}}, 400),
        ("/v1/responses", {"json": {"model": "default", "input": "Hi", "prompt": {"id": "x"}}}, 400),
    ],
)
def test_refusals_are_described(
    make_client: Serve, document: Document, path: str, sent: dict[str, Any], status: int
) -> None:
    """What is refused is refused with a documented status and body."""
    reply = make_client(max_body_bytes=1000).post(path, **sent)
    assert (reply.status_code, misfits(document, reply, document["paths"][path]["post"])) == (status, [])


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/generate", "post", 503),
        ("/health", "get", 503),
        ("/health/live", "get", 200),
        ("/v1/chat/completions", "post", 503),
        ("/v1/models", "get", 503),
    ],
)
def test_failures_are_described(make_client: Serve, document: Document, path: str, method: str, status: int) -> None:
    """Where no backend can serve, the answers are documented ones too."""
    body = {
        "/generate": {"prompt": "Hello"},
        "/v1/chat/completions": {"model": "default", "messages": [{"role": "user", "content": "Hello"}]},
    }
    client = make_client(llm_backend="ollama", ollama_url="http://127.0.0.1:9", connect_timeout=1)
    reply = client.open(path, method=method.upper(), json=body.get(path))
    assert (reply.status_code, misfits(document, reply, document["paths"][path][method])) == (status, [])


FORMATS = [
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}}},
    {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]},
    {"anyOf": [{"type": "object"}]},
]
NO_FORMATS = ["json", {}, {"type": "yaml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}]
USER = {"role": "user", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Hello"}
REFUSAL = {"type": "refusal", "refusal": "No."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}


COMPONENTS = {"generate": "Generate", "chat_completions": "Chat", "completions": "Completion", "responses": "Responses"}

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": None}
PICTURES = [
    *("data:image/gif;base64,R0lGODlh", "data:image/jpeg;base64,/9j/AA==", "data:image/png;base64,iVBORw0KGgoAAAA="),
    *("data:image/webp;base64,UklGRgoKAABXRUJQVlA4", "https://h.example/a.png?b=c#d", "http://10.0.0.1:8080"),
]
NO_PICTURES = [
    *("data:image/gif;base64,AAAA", "data:image/bmp;base64,Qk0A", "ftp://h.example", "https://", "a.png", ""),
    *("https://h.example/a b", "https://h.example/a\\b", "https://u:p@h.example/", "https://h.example:99999/"),
]


def shows(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("schema", "body", "fits"),
    [
        *[("generate", {"prompt": "Hello", "response_format": value}, True) for value in FORMATS],
        *[("generate", {"prompt": "Hello", "response_format": value}, False) for value in NO_FORMATS],
        ("generate", {"prompt": "Hello", "response_format": None}, False),
        ("generate", {"prompt": "Hello", "stop": None}, False),
        ("generate", {"prompt": "Hello", "stop": ["a", "b", "c", "d"]}, True),
        ("generate", {"prompt": "Hello", "stop": ["a", "b", "c", "d", "e"]}, False),
        ("generate", {"prompt": "Hello", "top_p": 0}, False),
        ("generate", {"prompt": "Hello", "top_p": 0.1}, True),
        ("generate", {"prompt": "Hello", "model": "a\nb"}, False),
        ("generate", {"prompt": "Hello", "model": "\na"}, False),
        ("generate", {"prompt": "Hello", "model": "a b"}, True),
        ("chat_completions", {"messages": [USER], "response_format": None, "stop": None}, True),
        ("chat_completions", {"messages": [SYSTEM]}, True),
        ("chat_completions", {"messages": [{"role": "assistant", "content": None, "refusal": "No."}]}, True),
        ("chat_completions", {"messages": [{"role": "assistant", "content": [REFUSAL]}]}, True),
        ("chat_completions", {"messages": [{"role": "assistant", "content": [{"type": "refusal"}]}]}, False),
        ("chat_completions", {"messages": [USER], "tool_choice": "auto"}, True),
        ("chat_completions", {"messages": [USER], "tool_choice": "any"}, False),
        ("chat_completions", {"messages": [USER], "tool_choice": {"type": "function"}}, False),
        ("chat_completions", {"messages": [USER], "top_p": 0}, True),
        ("chat_completions", {"messages": [USER], "logprobs": False, "n": 1}, True),
        ("chat_completions", {"messages": [USER], "logprobs": None, "n": None}, True),
        ("chat_completions", {"messages": [USER], "logprobs": True}, False),
        ("chat_completions", {"messages": [USER], "n": 2}, False),
        ("completions", {"prompt": "Hello", "logprobs": 0}, False),
        ("completions", {"prompt": "Hello", "echo": False, "best_of": 1}, True),
        ("chat_completions", {"messages": [USER], "logit_bias": {"5": 1}, "user": "", "verbosity": "low"}, True),
        ("chat_completions", {"messages": [USER], "logit_bias": {"5": "1"}}, False),
        ("chat_completions", {"messages": [USER], "presence_penalty": "1"}, False),
        ("completions", {"prompt": "Hello", "top_p": 0}, True),
        ("chat_completions", {"messages": [SYSTEM, PARTS]}, True),
        ("chat_completions", {"messages": [SYSTEM, PARTS | {"content": None}]}, True),
        ("chat_completions", {"messages": [USER | {"content": [{"type": "image_url"}]}]}, False),
        *(("chat_completions", {"messages": [USER | {"content": [shows(url)]}]}, True) for url in PICTURES),
        *(("chat_completions", {"messages": [USER | {"content": [shows(url)]}]}, False) for url in NO_PICTURES),
        ("generate", {"prompt": "Hello", "images": ["R0lGODlh", "/9j/AA==", "iVBORw0KGgoAAAA="]}, True),
        *(("generate", {"prompt": "Hello", "images": [file]}, False) for file in ("AAAA", "", "R0lGODlh!", 5)),
        *(("responses", {"input": items}, True) for items in ("Hi", [USER], [USER, CALL, RESULT], [THOUGHT, SYSTEM])),
        *(("responses", {"input": items}, False) for items in (5, [{"content": "Hi"}], [{"type": "message"}])),
        ("responses", {"input": [USER, RESULT | {"call_id": ""}]}, False),
        ("responses", {"input": "Hi", "background": False, "prompt": None, "top_logprobs": 0}, True),
        *(("responses", {"input": "Hi", name: "x"}, False) for name in ("prompt", "conversation", "background")),
        ("responses", {"input": "Hi", "tools": [{"type": "function", "name": "f", "parameters": {}}]}, True),
        ("responses", {"input": "Hi", "tools": [{"type": "function"}]}, False),
        ("responses", {"input": "Hi", "text": {"format": {"type": "json_schema", "schema": {}}}}, True),
        ("responses", {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x"}}}, False),
        ("responses", {"input": "Hi", "reasoning": {"effort": "low", "summary": None}}, True),
        ("completions", {"prompt": ""}, False),
        ("completions", {"prompt": "Hello", "logprobs": None}, True),
    ],
)
def test_bodies_are_described_as_they_are_read(
    make_app: Callable[..., Flask], document: Document, schema: str, body: dict[str, Any], fits: bool
) -> None:
    """Of what apispec can't see by itself: a body fits the description where, and only where, the service takes it."""
    body = body if schema == "generate" else {"model": "default"} | body
    component = document["components"]["schemas"][COMPONENTS[schema]]
    assert (holds(document, component, body) == []) == fits
    reader = LLMAPI.of(make_app()).dialects[schema]
    with nullcontext() if fits else pytest.raises(ValidationFailed):
        reader.read(body)


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        ("chat_completions", {"messages": [SYSTEM | {"content": ""}]}),
        ("chat_completions", {"messages": [{"role": "assistant", "content": [REFUSAL | {"refusal": ""}]}]}),
        ("chat_completions", {"messages": [PARTS | {"content": []}]}),
        ("chat_completions", {"messages": [{"role": "user"}]}),
        ("chat_completions", {"messages": [USER, {"role": "tool", "content": "Hello"}]}),
        ("chat_completions", {"messages": [USER | {"content": [shows("data:image/gif;base64,/9j/AA==")]}]}),
        ("responses", {"input": ""}),
        ("responses", {"input": []}),
    ],
)
def test_what_is_described_in_words(
    make_app: Callable[..., Flask], document: Document, schema: str, body: dict[str, Any]
) -> None:
    """What only the whole of a body shows is refused too: that nothing is said, that a result has no call."""
    body = {"model": "default"} | body
    assert holds(document, document["components"]["schemas"][COMPONENTS[schema]], body) == []
    with pytest.raises(ValidationFailed):
        LLMAPI.of(make_app()).dialects[schema].read(body)


def test_postman_collection_is_made_from_it() -> None:
    """The collection in the repository is the one that its maker makes now."""
    assert postman.FILE.read_text() == postman.text(), "out of step: run make postman-collection"


# Where it hangs


def mounted(app: Flask, name: str) -> Flask:
    """Return a host application with the service of `app` in it, as `name` says, and a /health of its own."""
    host = Flask("host", static_folder=None)
    settings = LLMAPI.of(app).settings
    if name == "as the second":
        LLMAPI(host, "/first", settings=settings)
    LLMAPI(host, "/llm", settings=settings)
    host.add_url_rule("/health", "health", lambda: "the host's own")
    return host


@pytest.mark.parametrize(
    ("name", "script_name", "at"),
    [
        ("", "", "/openapi.json"),
        ("", "/gateway", "/openapi.json"),
        ("with a prefix", "", "/llm/openapi.json"),
        ("with a prefix", "/gateway", "/llm/openapi.json"),
        ("as the second", "", "/llm/openapi.json"),
    ],
)
def test_paths_hang_on_the_documents_address(
    make_app: Callable[..., Flask], document: Document, name: str, script_name: str, at: str
) -> None:
    """Wherever the service hangs, server and path, from the document's own address, lead to each route."""
    app = mounted(make_app(), name) if name else make_app()
    client = app.test_client()
    found = client.get(at, environ_overrides={"SCRIPT_NAME": script_name}).get_json()
    assert found == document
    server = urljoin(f"http://host{script_name}{at}", found["servers"][0]["url"])
    for path in ("/health", "/config", "/v1/models"):
        inside = urlsplit(server.removesuffix("/") + path).path.removeprefix(script_name)
        reply = client.get(inside, environ_overrides={"SCRIPT_NAME": script_name})
        assert misfits(found, reply, found["paths"][path]["get"]) == []


@pytest.mark.parametrize(
    ("name", "at"), [("", "/docs"), ("with a prefix", "/llm/docs"), ("as the second", "/llm/docs")]
)
def test_docs_page_finds_its_files(make_app: Callable[..., Flask], name: str, at: str) -> None:
    """Every file that the page names, and the document, is there, from the page's own address; none is elsewhere."""
    client = (mounted(make_app(), name) if name else make_app()).test_client()
    page = client.get(at, buffered=True)
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    script = client.get(urljoin(at, next(name for name in names if name.endswith("docs/page.js"))), buffered=True)
    names = [name for name in names if not name.startswith("#")] + re.findall(r'ask\("([^"]+)"', script.text)
    assert {"dashboard", "openapi.json"} < set(names)
    found = {name: client.get(urljoin(at, name), buffered=True).status_code for name in names}
    assert found == dict.fromkeys(names, 200)
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none';")
