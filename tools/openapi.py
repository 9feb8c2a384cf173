"""Write llm_api/web/openapi.json from the schemas that read the bodies and the views' docstrings: make openapi.

A route has a line in OPERATIONS, its answer one in COMPONENTS, and a dialect its examples.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import fields, validate

import llm_api
from llm_api import LLMAPI, Settings, create_app
from llm_api.dialects import Dialect
from llm_api.dialects.anthropic import BLOCKS, Block, MessagesSchema, TextBlock
from llm_api.dialects.anthropic import Choice as MessagesChoice
from llm_api.dialects.fields import MAX_STOPS, MAX_TEXTS, FlatFormat, Format, Picture, Stop, TextOr, Texts
from llm_api.dialects.ollama import OllamaFormat, Think
from llm_api.dialects.openai import ChatPart, ChatSchema, CompletionSchema
from llm_api.dialects.responses import ITEM_ROLES, ITEMS, SERVED_TOOLS, Item, Offered, ResponsesSchema
from llm_api.dialects.tools import Choice
from llm_api.errors import LLMAPIError
from llm_api.web import openapi as served

Json = dict[str, Any]

# A setting, by which its name is found where it stands.
MOST = 1_234_567
ABOUT = "Turns prompts into text. `X-LLM-Backend` says who answered."


def _object(required: Json, /, **optional: Any) -> Json:
    return {"type": "object", "properties": required | optional, "required": list(required)}


def _list(items: Json, **limits: Any) -> Json:
    return {"type": "array", "items": items} | limits


def _one_of(*texts: str) -> Json:
    return {"type": "string", "enum": list(texts)}


def _kind(*types: str, **required: Json) -> Json:
    """Describe an object of a `type` that has these fields."""
    return _object({"type": _one_of(*types)} | required)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


TEXT, NULLABLE_TEXT = {"type": "string"}, {"type": ["string", "null"]}
COUNT, NULLABLE_COUNT = {"type": "integer", "minimum": 0}, {"type": ["integer", "null"]}
TIME = {"type": "number"}
NOT_EMPTY = TEXT | {"minLength": 1}
SCHEMA = _ref("JSONSchema")
SUBSCHEMA = {"anyOf": [SCHEMA, {"type": "boolean"}]}
OPEN = {"additionalProperties": True}
HEALTH = _one_of("healthy", "degraded", "unhealthy")
FINISH = {"finish_reason": _one_of("stop", "length", "tool_calls", "content_filter")}
ANSWERED = {"request_id": TEXT, "backend": TEXT, "model": TEXT, **FINISH, "usage": _ref("Tokens"), "duration_ms": TIME}
FELL_BACK = {"fallback": {"type": "boolean"}, "fallback_reason": NULLABLE_TEXT}
# What the vendors' answers always have; what it is, and what else there may be, their documentation says.
VENDORS = {
    **dict.fromkeys(("ChatCompletion", "TextCompletion"), ("id", "object", "created", "model", "choices")),
    "Embedded": ("object", "data", "model"),
    "Model": ("id", "object", "created", "owned_by", "type", "display_name", "created_at", "serves"),
    "ModelList": ("object", "data", "has_more", "first_id", "last_id"),
    "MessageAnswer": ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
    "ResponseObject": ("id", "object", "created_at", "model", "output", "status"),
    "OllamaChatted": ("model", "created_at", "message", "done"),
    "OllamaGenerated": ("model", "created_at", "response", "done"),
    "OllamaEmbedded": ("model", "embeddings"),
    "OllamaEmbedding": ("embedding",),
    "OllamaModels": ("models",),
    "OllamaShown": ("model_info", "capabilities", "details"),
    "OllamaVersion": ("version",),
}
# Each with its fields and no others, unless it says so.
COMPONENTS = {
    **{name: _object({key: {} for key in said}) | OPEN for name, said in VENDORS.items()},
    "JSONSchema": _object(
        {},
        type=_one_of("object", "array", "string", "number", "integer", "boolean", "null"),
        properties={"type": "object", "additionalProperties": SUBSCHEMA},
        required=_list(TEXT, uniqueItems=True),
        items=SUBSCHEMA,
    )
    | {"description": "Draft 2020-12; `patternProperties` and references elsewhere are not supported."}
    | OPEN,
    "ErrorDetail": _object({"message": TEXT, "type": TEXT, "code": NULLABLE_TEXT, "param": NULLABLE_TEXT}),
    "Error": _object({"error": _ref("ErrorDetail"), "request_id": TEXT}, fields={"type": "object"}, type=TEXT),
    "Tokens": _object(
        {"input_tokens": NULLABLE_COUNT, "output_tokens": NULLABLE_COUNT}, cached_tokens=COUNT, reasoning_tokens=COUNT
    ),
    "PlainCall": _object({"id": TEXT, "name": TEXT, "arguments": TEXT}),
    "Details": _object(ANSWERED | FELL_BACK, tool_calls=_list(_ref("PlainCall")), reasoning=TEXT),
    "Generated": _object({"response": TEXT}, refusal=TEXT, details=_ref("Details")),
    "Health": _object({"status": HEALTH, "backend": TEXT, "timestamp": TIME}, reason=TEXT),
    # The four that clients rely on; the others are as many as there are settings.
    "Config": _object(dict.fromkeys(("backend", "ollama_model", "ollama_url", "log_file"), TEXT)) | OPEN,
    "TokenCount": _object({"input_tokens": COUNT}),
    "OllamaError": _object({"error": TEXT}),
}

# What apispec can't read from a field: our own kinds, and what is checked of a body as a whole.
TEXT_PART = _kind("text", text=TEXT)
# How the files of JPEG, PNG, GIF and WebP begin in base64, and how base64 ends.
FILE = "(/9j/|iVBORw0KGg[o-r][A-Za-z0-9+/]|R0lGOD[dl]h|UklGR[g-v][A-Za-z0-9+/]{4}[BFJNRVZdhlptx159]XRUJQ)"
FILE += "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
PICTURE = TEXT | {"pattern": f"^{FILE}"}
ADDRESS = TEXT | {"pattern": r"^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,3})?([/?][!#-\[\]-~]*)?$"}
PICTURE_URL = {"anyOf": [ADDRESS, TEXT | {"pattern": f"^data:image/(jpeg|png|gif|webp);base64,{FILE}"}]}
NAMED_FUNCTION = _kind("function", function=_object({"name": NOT_EMPTY}))
NAMES = {"name": NULLABLE_TEXT, "description": NULLABLE_TEXT, "strict": {"type": ["boolean", "null"]}}
ANY_JSON, OWN_SCHEMA = _kind("text", "json_object"), SCHEMA | {"minProperties": 1}
SOURCES = [
    _object({"type": _one_of("base64"), "media_type": _one_of("image/jpeg", "image/png"), "data": PICTURE}),
    *(_kind("url", url=ADDRESS), _kind("file")),
]
OTHER_BLOCK = _object({"type": NOT_EMPTY | {"not": _one_of(*sorted(BLOCKS))}})
SHOWN_BLOCKS = [TEXT_PART, _kind("image", source={"anyOf": SOURCES}), OTHER_BLOCK]
RESULT = _kind("tool_result", tool_use_id=NOT_EMPTY)
RESULT["properties"]["content"] = {"anyOf": [NULLABLE_TEXT, _list({"anyOf": SHOWN_BLOCKS})]}
TOOL_NAME = TEXT | {"minLength": 1, "maxLength": 200, "pattern": r"^[^\x00-\x1f\x7f]+$"}


def _other(*served: str) -> Json:
    """Describe what is left out."""
    return _object({"type": TEXT | {"not": _one_of(*served)}})


ALLOWED_TOOLS = _list({"anyOf": [NAMED_FUNCTION, _other("function")]})
ALLOWED = _object({"mode": _one_of("auto", "required"), "tools": ALLOWED_TOOLS})
KINDS: dict[type, list[Json]] = {
    Item: [
        _object({"role": _one_of(*sorted(ITEM_ROLES)), "content": TEXT}, type=_one_of("message")),
        _kind("function_call", call_id=NOT_EMPTY, name=NOT_EMPTY),
        _kind("function_call_output", call_id=NOT_EMPTY, output=TEXT),
        _kind("reasoning", summary=_list(_kind("summary_text", text=TEXT))),
        _other(*ITEMS, "item_reference"),
    ],
    Offered: [_list({"anyOf": [_kind("function", name=TOOL_NAME), _other(*sorted(SERVED_TOOLS))]})],
    Stop: [NOT_EMPTY, _list(NOT_EMPTY, maxItems=MAX_STOPS)],
    ChatPart: [
        *(TEXT_PART, _kind("refusal", refusal=TEXT)),
        _kind("image_url", image_url=_object({"url": PICTURE_URL}, detail=NULLABLE_TEXT)),
    ],
    FlatFormat: [ANY_JSON, _object({"type": _one_of("json_schema"), "schema": SCHEMA}, **NAMES), OWN_SCHEMA],
    OllamaFormat: [_one_of("json"), OWN_SCHEMA],
    Format: [ANY_JSON, _kind("json_schema", json_schema=_object({"schema": SCHEMA}, **NAMES)), OWN_SCHEMA],
    TextBlock: [TEXT_PART, OTHER_BLOCK],
    Block: [
        *SHOWN_BLOCKS,
        _kind("thinking", thinking=TEXT),
        _kind("redacted_thinking", data=TEXT),
        _kind("tool_use", id=NOT_EMPTY, name=NOT_EMPTY, input={"type": "object"}),
        RESULT,
    ],
    MessagesChoice: [_kind("auto", "any", "none"), _kind("tool", name=TEXT)],
    Picture: [PICTURE],
    Texts: [NOT_EMPTY, _list(NOT_EMPTY, minItems=1, maxItems=MAX_TEXTS)],
    Think: [{"type": "boolean"}, _one_of("low", "medium", "high", "max")],
    Choice: [_one_of("auto", "none", "required"), NAMED_FUNCTION, _kind("allowed_tools", allowed_tools=ALLOWED)],
}
TOGETHER = {"description": "All texts together have 1 to MAX_PROMPT_CHARS characters."}
OWN_TOOL = _object({"name": TEXT, "input_schema": {"type": "object"}})
OTHER_TOOL = {"properties": {"type": TEXT | {"not": {"const": "custom"}}}, "required": ["type"]}
WHOLES: dict[tuple[type, str], Json] = {
    **dict.fromkeys(((ChatSchema, "messages"), (MessagesSchema, "messages"), (ResponsesSchema, "input")), TOGETHER),
    (MessagesSchema, "tools"): {"allOf": [{"items": {"anyOf": [OWN_TOOL, OTHER_TOOL]}}]},
    (CompletionSchema, "prompt"): {"description": "At most MAX_PROMPT_CHARS characters.", "minLength": 1},
}

JSON = "application/json"
# Of an event stream, tools take a schema for each event's; so it has words only.
STREAMS = {
    "application/x-ndjson": TEXT
    | {"description": "An object a line; the last has `done`. It breaks after an `error`."},
    "text/event-stream": {
        "description": "Server-sent events up to `[DONE]`, or Anthropic's `message_stop`; or to an `error`: it breaks."
    },
}
REFUSALS, FAILURES = (400, 401, 403, 404, 413, 415, 429), (500, 502, 503, 504)


def _header(about: str, required: bool = False) -> Json:
    return {"description": about, "required": required, "schema": TEXT}


ALWAYS = {"X-Request-ID": _header("The request's id, also in the log; the client's own where it sent one", True)}
GENERATED = {
    "X-LLM-Backend": _header("Who answered; absent where no model was asked"),
    "X-LLM-Model": _header("With which model"),
    "X-LLM-Ignored": _header("What of the body was left out for it; absent where nothing was"),
    "X-LLM-Fallback": _header("Why it was not the configured backend; absent where it was"),
    **{
        f"x-ratelimit-{name}-{counted}": _header(about)
        for counted in ("requests", "tokens")
        for name, about in (
            ("limit", f"With RATE_LIMIT: how many {counted} the rate allows that is used up first"),
            ("remaining", "How many of them are left"),
            ("reset", "When there will be more, such as 6m0s"),
        )
    },
}
WAIT = {"Retry-After": _header("Seconds; absent where a quota is used up")}

# A small model may not know where to stop.
PROMPT = {"prompt": "What is the capital of France?", "max_tokens": 50}
MODEL, STREAM = {"model": "default"}, {"stream": True}
CHAT = MODEL | {"messages": [{"role": "user", "content": PROMPT["prompt"]}], "max_tokens": 50}
ASKED = MODEL | {"input": PROMPT["prompt"], "max_output_tokens": 50}
BRIEF = {"options": {"num_predict": 50}}
OLLAMA_CHAT = MODEL | BRIEF | {"messages": CHAT["messages"]}
OLLAMA_PROMPT = MODEL | BRIEF | {"prompt": PROMPT["prompt"]}
EVERYTHING = {"prompt": "Tell me about the sea.", "system": "Be brief.", "max_tokens": 24, "temperature": 0.5}
EVERYTHING |= {"top_p": 0.9, "stop": ["\n\n"], "seed": 7, "stream": False, "fallback": True, "details": False}


class Operation(NamedTuple):
    """What a view's docstring and its dialect do not say: the schemas of a 200 and of an error, and other errors.

    `reads` is the dialect whose body is read by a view that generates nothing, `body` that which no dialect reads.
    """

    tag: str
    answer: Json
    errors: tuple[int, ...] = ()
    error: str = "Error"
    media_type: str = JSON
    reads: str | None = None
    body: Json | None = None


# By the endpoint inside the blueprint.
OPERATIONS = {
    "generate": Operation("Generate", _ref("Generated")),
    "health": Operation("State", _ref("Health"), (503,), error="Health"),
    "live": Operation("State", _ref("Health")),
    "config": Operation("State", _ref("Config"), (401,)),
    "metrics": Operation("State", TEXT, (401,), media_type="text/plain"),
    "chat_completions": Operation("OpenAI", _ref("ChatCompletion")),
    "completions": Operation("OpenAI", _ref("TextCompletion")),
    "messages": Operation("Anthropic", _ref("MessageAnswer")),
    "count_tokens": Operation("Anthropic", _ref("TokenCount"), reads="messages"),
    "responses": Operation("OpenAI", _ref("ResponseObject")),
    "embeddings": Operation("OpenAI", _ref("Embedded")),
    "ollama_chat": Operation("Ollama", _ref("OllamaChatted")),
    "ollama_generate": Operation("Ollama", _ref("OllamaGenerated")),
    "ollama_embed": Operation("Ollama", _ref("OllamaEmbedded")),
    "ollama_embeddings": Operation("Ollama", _ref("OllamaEmbedding")),
    "ollama_tags": Operation("Ollama", _ref("OllamaModels"), (401, 502, 503, 504)),
    "ollama_ps": Operation("Ollama", _ref("OllamaModels"), (401,)),
    "ollama_show": Operation("Ollama", _ref("OllamaShown"), (*REFUSALS, 502, 503, 504), body=_object({"model": TEXT})),
    "ollama_version": Operation("Ollama", _ref("OllamaVersion"), (401,)),
    "models": Operation("OpenAI", _ref("ModelList"), (401, 502, 503, 504)),
    "model": Operation("OpenAI", _ref("Model"), (401, 404, 502, 503, 504)),
}
# Bodies by their titles, for each dialect.
EXAMPLES: dict[str, Json] = {
    "generate": {
        "a prompt": PROMPT,
        "with details": PROMPT | {"system": "Be brief.", "temperature": 0, "details": True},
        "streamed": PROMPT | STREAM,
        "every parameter": EVERYTHING,
    },
    "chat_completions": {
        "a conversation": CHAT,
        "streamed": CHAT | STREAM | {"stream_options": {"include_usage": True}},
    },
    "messages": {"a conversation": CHAT, "streamed": CHAT | STREAM},
    "responses": {"a prompt": ASKED, "streamed": ASKED | STREAM},
    "embeddings": {"a text": MODEL | {"input": "Hello"}, "two texts": MODEL | {"input": ["Hello", "Hi"]}},
    "ollama_chat": {"a conversation": OLLAMA_CHAT | {"stream": False}, "streamed": OLLAMA_CHAT | STREAM},
    "ollama_generate": {"a prompt": OLLAMA_PROMPT | {"stream": False}, "streamed": OLLAMA_PROMPT | STREAM},
    "ollama_show": {"a model": MODEL},
    "ollama_embed": {"two texts": MODEL | {"input": ["Hello", "Hi"]}},
    "ollama_embeddings": {"a text": MODEL | {"prompt": "Hello"}},
    "completions": {"a prompt": MODEL | PROMPT, "streamed": MODEL | PROMPT | STREAM},
}


def describe() -> Json:
    """Return the OpenAPI document of a service that has all routes, at the top."""
    app = create_app(Settings(llm_backend="stub", llm_fallback=(), max_prompt_chars=MOST))
    spec, dialects = _empty(), LLMAPI.of(app).dialects
    rules = {rule.endpoint: rule for rule in app.url_map.iter_rules()}
    for name, said in OPERATIONS.items():
        rule = rules[f"llm_api.{name}"]
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        # the only thing in a path is a model's name
        about = {"in": "path", "required": True, "schema": NOT_EMPTY, "example": "default"}
        given = [{"name": each, **about} for each in rule.arguments]
        summary, _, more = inspect.cleandoc(app.view_functions[rule.endpoint].__doc__ or "").partition("\n")
        words = {"operationId": name, "tags": [said.tag], "summary": summary, "description": more.strip()}
        operation = words | {"parameters": given} | _exchanged(name, said, dialects.get(said.reads or name))
        spec.path(path, operations={"post" if "POST" in (rule.methods or ()) else "get": operation})
    return dict(spec.to_dict())


def _empty() -> APISpec:
    plugin = MarshmallowPlugin()
    # The server is relative to the document's own address: so it holds under any prefix, whether we know it or not.
    more = {"info": {"description": ABOUT}, "servers": [{"url": "./"}]}
    spec = APISpec("LLM API", llm_api.__version__, "3.1.0", plugins=[plugin], **more)
    assert plugin.converter
    plugin.converter.add_attribute_function(_beyond)
    for name, schema in COMPONENTS.items():
        spec.components.schema(name, {"additionalProperties": False} | schema)
    return spec


def _exchanged(name: str, said: Operation, dialect: Dialect | None) -> Json:
    """Return what is sent to an operation, and what it answers."""
    contents, statuses, sent = {said.media_type: {"schema": said.answer}}, set(said.errors), {}
    generates = dialect and not said.reads
    if schema := dialect.schema if dialect else said.body:
        titled = EXAMPLES[dialect.name if dialect else name]
        examples = {title: {"value": it} for title, it in titled.items() if generates or title != "streamed"}
        sent = {"requestBody": {"required": True, "content": {JSON: {"schema": schema, "examples": examples}}}}
    if dialect:
        streams = (
            {dialect.media_type: {"schema": STREAMS[dialect.media_type]}} if "stream" in dialect.schema.fields else {}
        )
        contents |= streams if generates else {}
        statuses |= {*REFUSALS, dialect.wrong_field, *(FAILURES if generates else ())}
    answers = {200: _answer("Answered", contents, GENERATED if generates else {})}
    for status in sorted(statuses):
        error = "OllamaError" if said.tag == "Ollama" else said.error
        waits = status in (429, 503) and error == "Error"
        answers[status] = _answer(_words_for(status), {JSON: {"schema": _ref(error)}}, WAIT if waits else {})
    return sent | {"responses": answers}


def _words_for(status: int) -> str:
    """Return what an answer of that status may mean: a sentence for each error that ends with it."""
    return " ".join((kind.__doc__ or "").partition("\n")[0] for kind in _leaves(LLMAPIError) if kind.status == status)


def _leaves(kind: type[LLMAPIError]) -> Iterator[type[LLMAPIError]]:
    for child in kind.__subclasses__():
        yield from _leaves(child)
    if not kind.__subclasses__():
        yield kind


def _answer(words: str, contents: Json, headers: Json) -> Json:
    return {"description": words, "headers": ALWAYS | headers, "content": contents}


def _beyond(converter: object, field: fields.Field[Any], ret: Json) -> Json:
    """Return what apispec does not see in `field`; the signature is apispec's, `ret` what it has seen."""
    said = dict(WHOLES.get((type(field.parent), field.name or ""), {}))
    if isinstance(field, TextOr):
        ret.pop("type")
        said["anyOf"] = [TEXT, _list(ret.pop("items")), *([{"type": "null"}] if field.allow_none else [])]
    forms = next((forms for kind, forms in KINDS.items() if isinstance(field, kind)), None)
    if not all(isinstance(value, str) for value in ret.get("enum", ())):
        # What makes clients from a description knows enumerations of texts only.
        forms = [{"const": value} for value in ret.pop("enum") if value is not None]
    if forms is not None:
        said["anyOf"] = [*forms, {"type": "null"}] if field.allow_none else forms
    for rule in field.validators:
        if isinstance(rule, validate.Range) and not rule.min_inclusive:
            said["exclusiveMinimum"] = rule.min
        elif isinstance(rule, validate.Regexp):  # which matches from the start, and \Z is Python's only
            said["pattern"] = "^" + str(rule.regex.pattern).removesuffix(r"\Z") + "$"
    return said


def text() -> str:
    """Return the file's content, in which a path or a schema is a line."""
    document = describe()
    paths, schemas = _lines(document.pop("paths")), _lines(document.pop("components")["schemas"])
    head = json.dumps(document).removesuffix("}")
    said = f'{head},\n"paths": {{\n{paths}\n}},\n"components": {{"schemas": {{\n{schemas}\n}}}}}}\n'
    return said.replace(f": {MOST}", f": {served.LIMIT}")


def _lines(entries: Json) -> str:
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())


if __name__ == "__main__":
    served.FILE.write_text(text())
