"""Write LLM-API.postman_collection.json from the OpenAPI document: make postman-collection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_api import Settings, create_app

FILE = Path(__file__).parents[1] / "LLM-API.postman_collection.json"
COMMON = Path(__file__).with_suffix(".js")
INFO = {
    "name": "LLM API",
    "description": "Made by `make postman-collection` from /openapi.json. Set `base_url` to where the service runs.",
    "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
POST, CHAT = "POST /generate", "POST /v1/chat/completions"
# A name that begins with the status, the route, its headers and body, and the code and param of the error.
ERRORS: list[tuple[str, str, dict[str, str], Any, str, str | None]] = [
    ("400 malformed JSON", POST, JSON, '{"prompt": ', "malformed_json", None),
    ("400 a name twice", POST, JSON, '{"prompt": "a", "prompt": "b"}', "malformed_json", None),
    ("400 no messages", CHAT, JSON, {"model": "default"}, "validation_failed", "messages"),
    ("404 no such page", "GET /nowhere", {}, None, "not_found", None),
    ("404 no such model", "GET /v1/models/none/such", {}, None, "model_not_found", "model"),
    ("405 GET /generate", "GET /generate", {}, None, "method_not_allowed", None),
    ("413 too large", POST, JSON, {"prompt": "{{long}}"}, "body_too_large", None),
    ("415 a form", POST, FORM, "prompt=Hello", "unsupported_media_type", None),
    ("422 no prompt", POST, JSON, {}, "validation_failed", "prompt"),
    ("422 out of range", POST, JSON, {"prompt": "a", "temperature": 3}, "validation_failed", "temperature"),
    ("422 a field not known", POST, JSON, {"prompt": "a", "promt": "a"}, "validation_failed", "promt"),
]
LONG = "pm.variables.set('long', 'x'.repeat(8400000));"
OWN_ID = JSON | {"X-Request-ID": "postman-1.a_b"}


def collection() -> dict[str, Any]:
    """Return the collection: a folder for each tag of the description, and one of errors."""
    app = create_app(Settings(llm_backend="stub", llm_fallback=()))
    document = app.test_client().get("/openapi.json").get_json()
    folders: dict[str, list[Any]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = method.upper() + " " + re.sub(r"({\w+})", r"{\1}", path)
            folders.setdefault(operation["tags"][0], []).extend(described(document, route, operation))
    folders["Generate"].append(
        request("an id of your own", POST, OWN_ID, {"prompt": "a", "max_tokens": 8}, status(200))
    )
    folders["Errors"] = [request(*row[:4], refused(row[0][:3], *row[4:])) for row in ERRORS]
    unknown = {"prompt": "a", "model": "no-such", "fallback": False}
    folders["Errors"].append(request("404 unless the stub answers", POST, JSON, unknown, ""))
    items = [{"name": name, "item": requests} for name, requests in folders.items()]
    variable = [{"key": "base_url", "value": "http://127.0.0.1:8000"}, {"key": "model", "value": ""}]
    events = [script(LONG, "prerequest"), script(COMMON.read_text())]
    return {"info": INFO, "item": items, "event": events, "variable": variable}


def described(document: dict[str, Any], route: str, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a request for each documented example, or the one there is, with what its answer must be like."""
    bodies = operation.get("requestBody", {"content": {"": {"examples": {"": {"value": None}}}}})["content"]
    for title, example in next(iter(bodies.values()))["examples"].items():
        body, name = example["value"], f"{route}: {title}".removesuffix(": ")
        yield request(name, route, JSON if body else {}, body, promised(document, operation, body or {}))


def promised(document: dict[str, Any], operation: dict[str, Any], body: dict[str, Any]) -> str:
    """Return the tests of a 200: its headers, its media type and, unless it is a stream, its schema."""
    answer = operation["responses"]["200"]
    kind, described = list(answer["content"].items())[-1 if body.get("stream") else 0]
    names = [name for name, header in answer["headers"].items() if header["required"]]
    tests = [
        f"for (const name of {names}) pm.expect(pm.response.headers.get(name), name).to.be.a('string').and.not.empty;",
        f"pm.expect(pm.response.headers.get('Content-Type')).to.include('{kind}');",
    ]
    if kind == JSON["Content-Type"]:
        tests.append(f"pm.response.to.have.jsonSchema({json.dumps(inlined(described['schema'], document))});")
    return "\n".join([status(200), "pm.test('as described', () => {", *(f"    {test}" for test in tests), "});"])


def inlined(value: Any, document: dict[str, Any]) -> Any:
    """Return `value` with what its references name in their place; a test stands alone."""
    if isinstance(value, list):
        return [inlined(item, document) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return inlined(document["components"]["schemas"][value["$ref"].rpartition("/")[2]], document)
    return {name: inlined(item, document) for name, item in value.items()}


def status(code: int | str) -> str:
    """Return the test of the status."""
    return f"pm.test('{code}', () => pm.response.to.have.status({code}));"


def refused(code: str, word: str, param: str | None) -> str:
    """Return the tests of an error: its status, its code and what is to blame."""
    error = json.dumps({"code": word, "param": param})
    return f"{status(code)}\npm.test('{word}', () => pm.expect(pm.response.json().error).to.include({error}));"


def request(name: str, route: str, headers: dict[str, str], body: Any, tests: str) -> dict[str, Any]:
    """Return an item of the collection; `body` is a text, what becomes JSON, or None."""
    method, path = route.split(" ")
    url = {"raw": "{{base_url}}" + path, "host": ["{{base_url}}"], "path": path[1:].split("/")}
    what = {"method": method, "header": [{"key": name, "value": value} for name, value in headers.items()], "url": url}
    if body is not None:
        what["body"] = {"mode": "raw", "raw": body if isinstance(body, str) else json.dumps(body, indent=2)}
    return {"name": name, "event": [script(tests)], "request": what}


def script(text: str, when: str = "test") -> dict[str, Any]:
    """Return an event: a script and when it runs."""
    return {"listen": when, "script": {"type": "text/javascript", "exec": text.splitlines()}}


def text() -> str:
    """Return the file's content."""
    return json.dumps(collection(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
