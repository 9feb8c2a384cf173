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
from marshmallow import INCLUDE, Schema, fields, validate

from ..dialects import Dialect
from ..dialects.fields import MAX_STOPS, Format, Picture, Stop
from ..dialects.openai import ChatSchema, CompletionSchema, Contents, CutFormat, Functions
from ..dialects.tools import Choice
from ..errors import words_for

Fields = dict[str, fields.Field[Any]]
Content = Mapping[str, type[Schema] | None]

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
Generated = Schema.from_dict(
    {"response": TEXT, "refusal": fields.String(), "details": fields.Nested(Details)}, name="Generated"
)
HealthBody = Schema.from_dict(
    {
        "status": fields.String(required=True, validate=validate.OneOf(["healthy", "degraded", "unhealthy"])),
        "backend": TEXT,
        "timestamp": TIME,
        "reason": fields.String(),
    },
    name="Health",
)


class Config(Schema):
    """The four that clients rely on; the others are as many as there are settings."""

    class Meta:
        unknown = INCLUDE

    backend = ollama_model = ollama_url = log_file = TEXT


OpenAIUsage = Schema.from_dict(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}, name="Usage"
)
Spoken = Schema.from_dict({"role": TEXT, "content": NULLABLE_TEXT, "refusal": NULLABLE_TEXT}, name="Spoken")
CHOICE: Fields = {"index": COUNT, "finish_reason": FINISH, "logprobs": fields.Raw(required=True, allow_none=True)}
ChatChoice = Schema.from_dict({**CHOICE, "message": fields.Nested(Spoken, required=True)}, name="ChatChoice")
TextChoice = Schema.from_dict({**CHOICE, "text": TEXT}, name="TextChoice")
OBJECT: Fields = {"id": TEXT, "object": TEXT, "created": COUNT}
COMPLETION: Fields = OBJECT | {"model": TEXT, "usage": fields.Nested(OpenAIUsage)}
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


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


# What apispec can't read from a field: our own kinds, and what is checked of a body as a whole.
ANY_SCHEMA = {"$ref": "#/components/schemas/JSONSchema"}
JSON_SCHEMA = {
    "description": "A JSON Schema, draft 2020-12; `patternProperties` and references to elsewhere are not supported.",
    "type": "object",
    "properties": {
        "type": {"enum": ["object", "array", "string", "number", "integer", "boolean", "null"]},
        "properties": {"type": "object", "additionalProperties": ANY_SCHEMA},
        "required": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "items": ANY_SCHEMA,
    },
}
NOT_EMPTY = {"type": "string", "minLength": 1}
TEXT_PART = _object({"type": {"const": "text"}, "text": {"type": "string"}}, "type", "text")
REFUSAL_PART = _object({"type": {"const": "refusal"}, "refusal": {"type": "string"}}, "type", "refusal")
# How the files of pictures begin, in base64.
FILES = {
    "jpeg": "/9j/",
    "png": "iVBORw0KGg[o-r][A-Za-z0-9+/]",
    "gif": "R0lGOD[dl]h",
    "webp": "UklGR[g-v][A-Za-z0-9+/]{4}[BFJNRVZdhlptx159]XRUJQ",
}
REST = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
PICTURE = {"type": "string", "pattern": f"^({'|'.join(FILES.values())}){REST}"}
DATA_URL = "|".join(f"image/{kind};base64,{begin}" for kind, begin in FILES.items())
PICTURE_URLS = [
    {"type": "string", "pattern": f"^data:({DATA_URL}){REST}"},
    {"type": "string", "pattern": r"^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,3})?([/?][!#-\[\]-~]*)?$"},
]
PICTURE_OBJECT = _object({"url": {"anyOf": PICTURE_URLS}, "detail": {"type": ["string", "null"]}}, "url")
PICTURE_PART = _object({"type": {"const": "image_url"}, "image_url": PICTURE_OBJECT}, "type", "image_url")
OPTIONS = {"name": {"type": ["string", "null"]}, "strict": {"type": ["boolean", "null"]}}
NAMED_SCHEMA = _object({**OPTIONS, "schema": ANY_SCHEMA}, "schema")
FORMATS: list[dict[str, Any]] = [
    _object({"type": {"enum": ["text", "json_object"]}}, "type"),
    _object({"type": {"const": "json_schema"}, "json_schema": NAMED_SCHEMA}, "type", "json_schema"),
    {**ANY_SCHEMA, "minProperties": 1},
]
KINDS: dict[type, list[dict[str, Any]]] = {
    Stop: [NOT_EMPTY, {"type": "array", "items": NOT_EMPTY, "maxItems": MAX_STOPS}],
    Contents: [{"type": "string"}, {"type": "array", "items": {"anyOf": [TEXT_PART, REFUSAL_PART, PICTURE_PART]}}],
    Picture: [PICTURE],
    Format: FORMATS,
    CutFormat: FORMATS,
    Functions: [{"enum": ["none", "auto"]}, {"type": "array", "maxItems": 0}],
    Choice: [
        {"enum": ["auto", "none", "required"]},
        _object({"type": {"enum": ["function", "allowed_tools"]}}, "type"),
    ],
}
WORDED = [{"properties": {kind: NOT_EMPTY}, "required": [kind]} for kind in ("text", "refusal")]
WORDED.append({"properties": {"type": {"const": "image_url"}}, "required": ["type"]})
IN_CONTENT = {"anyOf": [NOT_EMPTY, {"type": "array", "contains": {"anyOf": WORDED}}]}
SAYS_SOMETHING = {
    "anyOf": [
        {"properties": {"content": IN_CONTENT}, "required": ["content"]},
        {"properties": {"refusal": NOT_EMPTY}, "required": ["refusal"]},
        {
            "properties": {"role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1}},
            "required": ["role", "tool_calls"],
        },
    ]
}
WHOLES: dict[tuple[type, str], dict[str, Any]] = {
    (ChatSchema, "messages"): {
        "description": "All texts together have 1 to MAX_PROMPT_CHARS characters.",
        # of one alone, tools make up as many messages as are allowed, for minutes
        "allOf": [{"contains": {"type": "object"}}, {"contains": SAYS_SOMETHING}],
    },
    (CompletionSchema, "prompt"): {"description": "At most MAX_PROMPT_CHARS characters.", "minLength": 1},
}

JSON = "application/json"
# Of an event stream, tools take a schema for each event's; so it has words only.
STREAMS = {
    "text/plain": {"type": "string", "description": "Prometheus' text format."},
    "application/x-ndjson": {
        "type": "string",
        "description": "One object a line; the last has `done`. The connection breaks after an `error`.",
    },
    "text/event-stream": {
        "description": "Server-sent events; the last one's data is `[DONE]`, or an object with `error`. After an error "
        "the connection breaks."
    },
}
GENERATION_ERRORS = dict.fromkeys((400, 401, 403, 404, 413, 415, 429, 500, 502, 503, 504), Error)
LIST_ERRORS = dict.fromkeys((401, 502, 503, 504), Error)
ALWAYS = {"X-Request-ID": "The request's id, which the log has too; the client's own where it sent one"}
WHO = {"X-LLM-Backend": "Who answered", "X-LLM-Model": "With which model"}
FALLBACK = {"X-LLM-Fallback": "Why it was not the configured backend; absent where it was"}
WAIT = {"Retry-After": "Seconds; absent where a quota is used up"}
RATES = {
    "x-ratelimit-limit-requests": "Where RATE_LIMIT is set: how many requests the rate allows that is used up first",
    "x-ratelimit-remaining-requests": "How many of them are left",
    "x-ratelimit-reset-requests": "When one more will be, such as 6m0s",
}
QUESTION = "What is the capital of France?"
# A small model may not know where to stop.
BRIEF = {"max_tokens": 50}
ASKED = {"model": "default", "prompt": QUESTION} | BRIEF
CHAT = {"model": "default", "messages": [{"role": "user", "content": QUESTION}]} | BRIEF


@dataclass(frozen=True)
class Operation:
    """What a view's docstring does not say. `answer` maps the media types of a 200 to their schemas."""

    answer: Content
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: Mapping[int, type[Schema]] = field(default_factory=dict)


# By the endpoint inside the blueprint.
OPERATIONS = {
    "generate": Operation(
        {JSON: Generated, "application/x-ndjson": None},
        {
            "a prompt": {"prompt": QUESTION} | BRIEF,
            "with details": {"prompt": QUESTION, "system": "Be brief.", "temperature": 0, "details": True} | BRIEF,
            "streamed": {"prompt": QUESTION, "stream": True} | BRIEF,
            "every parameter": {
                "prompt": "Tell me about the sea.",
                "system": "Be brief.",
                "max_tokens": 24,
                "temperature": 0.5,
                "top_p": 0.9,
                "stop": ["\n\n"],
                "seed": 7,
                "stream": False,
                "fallback": True,
                "details": False,
            },
        },
        GENERATION_ERRORS | {422: Error},
    ),
    "health": Operation({JSON: HealthBody}, errors={503: HealthBody}),
    "live": Operation({JSON: HealthBody}),
    "config": Operation({JSON: Config}, errors={401: Error}),
    "metrics": Operation({"text/plain": None}, errors={401: Error}),
    "chat_completions": Operation(
        {JSON: ChatCompletion, "text/event-stream": None},
        {
            "a conversation": CHAT,
            "streamed": CHAT | {"stream": True, "stream_options": {"include_usage": True}},
        },
        GENERATION_ERRORS,
    ),
    "completions": Operation(
        {JSON: TextCompletion, "text/event-stream": None},
        {"a prompt": ASKED, "streamed": ASKED | {"stream": True}},
        GENERATION_ERRORS,
    ),
    "models": Operation({JSON: ModelList}, errors=LIST_ERRORS),
    "model": Operation({JSON: Model}, errors=LIST_ERRORS | {404: Error}),
}


def describe(app: Flask, blueprint: str, dialects: Mapping[str, Dialect]) -> dict[str, Any]:
    """Return the OpenAPI document of `blueprint`, to be served at its /openapi.json.

    `dialects` are those of the routes that generate, by endpoint.
    """
    own = f"{blueprint}."
    rules = {r.endpoint.removeprefix(own): r for r in app.url_map.iter_rules() if r.endpoint.startswith(own)}
    mount = rules["openapi"].rule.removesuffix("/openapi.json")
    spec = _empty()
    for endpoint, rule in rules.items():
        if said := OPERATIONS.get(endpoint):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix(mount))
            dialect = dialects.get(endpoint)
            operation = _operation(said, app.view_functions[rule.endpoint].__doc__ or "", dialect)
            tag = "OpenAI" if path.startswith("/v1/") else "Generate" if dialect else "State"
            operation |= {"operationId": endpoint, "tags": [tag]}
            operation |= {"parameters": [_parameter(name) for name in rule.arguments]}
            spec.path(path, operations={"post" if dialect else "get": operation})
    document: dict[str, Any] = spec.to_dict()
    return document


def _empty() -> APISpec:
    plugin = MarshmallowPlugin()
    spec = APISpec("LLM API", _version(), "3.1.0", plugins=[plugin])
    assert plugin.converter
    plugin.converter.add_attribute_function(_beyond)
    spec.components.schema("JSONSchema", JSON_SCHEMA)
    # Relative to the document's own address: so it holds under any prefix, whether we are told of it or not.
    spec.options["servers"] = [{"url": "./"}]
    return spec


def _beyond(converter: object, field: fields.Field[Any], ret: object) -> dict[str, Any]:
    """Return what apispec does not see in `field`; the signature is apispec's."""
    said = dict(WHOLES.get((type(field.parent), field.name or ""), {}))
    if forms := KINDS.get(type(field)):
        said["anyOf"] = [*forms, {"type": "null"}] if field.allow_none else forms
    for rule in field.validators:
        if isinstance(rule, validate.Range) and not rule.min_inclusive:
            said["exclusiveMinimum"] = rule.min
        elif isinstance(rule, validate.Regexp):  # which matches from the start, and \Z is Python's only
            said["pattern"] = "^" + str(rule.regex.pattern).removesuffix(r"\Z") + "$"
    return said


def _operation(said: Operation, docstring: str, dialect: Dialect | None) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(docstring).partition("\n")
    operation: dict[str, Any] = {"summary": summary, "description": description.strip()}
    if dialect:
        examples = {title: {"value": value} for title, value in said.examples.items()}
        content = {JSON: {"schema": dialect.schema, "examples": examples}}
        operation["requestBody"] = {"required": True, "content": content}
    headers = _headers(WHO) | _headers(FALLBACK | RATES, False) if dialect else {}
    answers = {200: _answer("Answered", said.answer, headers)}
    return operation | {"responses": answers | {status: _error(status, said.errors[status]) for status in said.errors}}


def _error(status: int, schema: type[Schema]) -> dict[str, Any]:
    wait = _headers(WAIT, False) if schema is Error and status in (429, 503) else {}
    return _answer(words_for(status), {JSON: schema}, wait)


def _answer(words: str, answer: Content, headers: dict[str, Any]) -> dict[str, Any]:
    content = {kind: {"schema": schema or STREAMS[kind]} for kind, schema in answer.items()}
    return {"description": words, "headers": _headers(ALWAYS) | headers, "content": content}


def _headers(words: Mapping[str, str], required: bool = True) -> dict[str, Any]:
    return {
        name: {"description": about, "required": required, "schema": {"type": "string"}}
        for name, about in words.items()
    }


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _version() -> str:
    try:
        return version("llm-api")
    except PackageNotFoundError:  # run from its folder
        return "0"
