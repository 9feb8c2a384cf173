"""The description of the API (OpenAPI 3.1), from the schemas that read the bodies and the views' docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from marshmallow import Schema, fields, validate

Fields = dict[str, fields.Field[Any]]
Answer = Mapping[str, type[Schema] | None]

TEXT = fields.String(required=True)
NULLABLE_TEXT = fields.String(required=True, allow_none=True)
COUNT = fields.Integer(required=True, validate=validate.Range(0))
NULLABLE_COUNT = fields.Integer(required=True, allow_none=True)
TIME = fields.Float(required=True)
FINISH = fields.String(required=True, validate=validate.OneOf(["stop", "length", "tool_calls", "content_filter"]))

ErrorDetail = Schema.from_dict(
    {"message": TEXT, "type": TEXT, "code": NULLABLE_TEXT, "param": NULLABLE_TEXT}, name="ErrorDetail"
)
Error = Schema.from_dict(
    {"error": fields.Nested(ErrorDetail, required=True), "request_id": TEXT, "fields": fields.Dict()}, name="Error"
)
Tokens = Schema.from_dict({"input_tokens": NULLABLE_COUNT, "output_tokens": NULLABLE_COUNT}, name="Tokens")
Details = Schema.from_dict(
    {
        "request_id": TEXT,
        "backend": TEXT,
        "model": TEXT,
        "finish_reason": FINISH,
        "usage": fields.Nested(Tokens, required=True),
        "duration_ms": TIME,
        "fallback": fields.Boolean(required=True),
        "fallback_reason": NULLABLE_TEXT,
    },
    name="Details",
)
Generated = Schema.from_dict({"response": TEXT, "details": fields.Nested(Details)}, name="Generated")
Health = Schema.from_dict(
    {
        "status": fields.String(required=True, validate=validate.OneOf(["healthy", "degraded", "unhealthy"])),
        "backend": TEXT,
        "timestamp": TIME,
        "reason": fields.String(),
    },
    name="Health",
)
Config = Schema.from_dict({"backend": TEXT, "ollama_model": TEXT, "ollama_url": TEXT, "log_file": TEXT}, name="Config")
OpenAIUsage = Schema.from_dict(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}, name="Usage"
)
Spoken = Schema.from_dict({"role": TEXT, "content": NULLABLE_TEXT, "refusal": NULLABLE_TEXT}, name="Spoken")
CHOICE: Fields = {"index": COUNT, "finish_reason": FINISH, "logprobs": fields.Raw(required=True, allow_none=True)}
ChatChoice = Schema.from_dict({**CHOICE, "message": fields.Nested(Spoken, required=True)}, name="ChatChoice")
TextChoice = Schema.from_dict({**CHOICE, "text": TEXT}, name="TextChoice")
OBJECT: Fields = {"id": TEXT, "object": TEXT, "created": COUNT}
COMPLETION: Fields = OBJECT | {"model": TEXT, "usage": fields.Nested(OpenAIUsage, required=True, allow_none=True)}
ChatCompletion = Schema.from_dict(
    {**COMPLETION, "choices": fields.List(fields.Nested(ChatChoice), required=True)}, name="ChatCompletion"
)
TextCompletion = Schema.from_dict(
    {**COMPLETION, "choices": fields.List(fields.Nested(TextChoice), required=True)}, name="TextCompletion"
)
Model = Schema.from_dict({**OBJECT, "owned_by": TEXT}, name="Model")
ModelList = Schema.from_dict(
    {"object": TEXT, "data": fields.List(fields.Nested(Model), required=True)}, name="ModelList"
)

JSON = "application/json"
GENERATION_ERRORS = dict.fromkeys((400, 404, 413, 415, 429, 500, 502, 503, 504), Error)
LIST_ERRORS = dict.fromkeys((502, 503, 504), Error)
ERROR_WORDS = {
    400: "The body is not JSON, or the backend refuses the request",
    404: "The model is not known",
    413: "The body is too large",
    415: "The body's type is not application/json",
    422: "A field is wrong",
    429: "The backend limits the rate of requests",
    500: "Something broke inside the service",
    502: "The backend failed",
    503: "Nothing to serve with, or the log can't be written",
    504: "No answer within REQUEST_TIMEOUT",
}
QUESTION = "What is the capital of France?"
CHAT = {"model": "default", "messages": [{"role": "user", "content": QUESTION}]}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@dataclass(frozen=True)
class Operation:
    """What a view's docstring does not say. `answer` maps the media types of a 200 to their schemas."""

    answer: Answer
    body: str | None = None
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: Mapping[int, type[Schema]] = field(default_factory=dict)


# By the endpoint inside the blueprint.
OPERATIONS = {
    "generate": Operation(
        {JSON: Generated, "application/x-ndjson": None},
        "generate_schema",
        {
            "a prompt": {"prompt": QUESTION},
            "with details": {"prompt": QUESTION, "system": "Answer briefly.", "temperature": 0, "details": True},
            "streamed": {"prompt": QUESTION, "max_tokens": 50, "stream": True},
        },
        GENERATION_ERRORS | {422: Error},
    ),
    "health": Operation({JSON: Health}, errors={503: Health}),
    "live": Operation({JSON: Health}),
    "config": Operation({JSON: Config}),
    "openai.chat_completions": Operation(
        {JSON: ChatCompletion, "text/event-stream": None},
        "chat_schema",
        {
            "a conversation": CHAT,
            "streamed": CHAT | {"stream": True, "stream_options": {"include_usage": True}},
        },
        GENERATION_ERRORS,
    ),
    "openai.completions": Operation(
        {JSON: TextCompletion, "text/event-stream": None},
        "completion_schema",
        {"a prompt": {"model": "default", "prompt": QUESTION}},
        GENERATION_ERRORS,
    ),
    "openai.models": Operation({JSON: ModelList}, errors=LIST_ERRORS),
    "openai.model": Operation({JSON: Model}, errors=LIST_ERRORS | {404: Error}),
}


def describe(app: Flask, blueprint: str, root: str, bodies: object) -> dict[str, Any]:
    """Return the OpenAPI document of `blueprint`, which hangs under the path `root` (empty: at the top).

    `bodies` has the schemas that read the bodies, under the names that OPERATIONS gives them.
    """
    spec = APISpec("LLM API", _version(), "3.1.0", plugins=[MarshmallowPlugin()])
    spec.options["servers"] = [{"url": root or "/"}]
    rules = {rule.endpoint.removeprefix(f"{blueprint}."): rule for rule in app.url_map.iter_rules()}
    mount = rules["openapi"].rule.removesuffix("/openapi.json")
    for endpoint, rule in rules.items():
        if said := OPERATIONS.get(endpoint):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix(mount))
            operation = _operation(said, app.view_functions[rule.endpoint].__doc__ or "", bodies)
            operation["operationId"] = rule.endpoint.rpartition(".")[2]
            operation["parameters"] = [_parameter(argument) for argument in rule.arguments]
            spec.path(path, operations={"post" if said.body else "get": operation})
    document: dict[str, Any] = spec.to_dict()
    return document


def _operation(said: Operation, docstring: str, bodies: object) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(docstring).partition("\n")
    operation: dict[str, Any] = {"summary": summary, "description": description.strip()}
    if said.body:
        examples = {title: {"value": value} for title, value in said.examples.items()}
        content = {JSON: {"schema": getattr(bodies, said.body), "examples": examples}}
        operation["requestBody"] = {"required": True, "content": content}
    errors = {status: _answer(ERROR_WORDS[status], {JSON: said.errors[status]}) for status in sorted(said.errors)}
    return operation | {"responses": {200: _answer("Answered", said.answer)} | errors}


def _answer(words: str, answer: Answer) -> dict[str, Any]:
    content = {kind: {"schema": schema or {"type": "string"}} for kind, schema in answer.items()}
    return {"description": words, "content": content}


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _version() -> str:
    try:
        return version("llm-api")
    except PackageNotFoundError:  # run from its folder
        return "0"
