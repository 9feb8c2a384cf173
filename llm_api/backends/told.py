"""Tools for models and servers that lack them: told in words, and forced by a JSON Schema that only a call fits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import strict_json
from ..errors import RequestRefused
from ..types import CallPiece, Chunk, GenerationRequest, Image, Message, Text, Tool, ToolCall, ToolChoice, ToolResult

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
NAMED = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
ARGUMENTS = re.compile(r'"arguments"\s*:\s*')
OWN = re.compile(r"#(/|\Z)")
TELLING = "You can call these functions:\n{}\n"
MUST = 'Call the right one: answer with {"name": its name, "arguments": an object}.'
MAY = 'To call one, answer with {"name": its name, "arguments": an object} alone; else answer in words.'


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the JSON Schema of a call of one of `tools`."""
    # what refers to itself stands a second time where its references find it; older engines find nothing in lists
    arguments = [_moved(tool.parameters or NO_PARAMETERS, f"#/$defs/{n}") for n, tool in enumerate(tools)]
    referred = {str(n): moved for n, moved in enumerate(arguments) if moved != (tools[n].parameters or NO_PARAMETERS)}
    calls = [_schema(tool.name, moved) for tool, moved in zip(tools, arguments, strict=True)]
    return (calls[0] if len(calls) == 1 else {"anyOf": calls}) | ({"$defs": referred} if referred else {})


def _schema(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    properties = {"name": {"const": name}, "arguments": arguments}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _moved(schema: Any, place: str) -> Any:
    """Return `schema` with its references to its own parts as they are from `place` on."""
    if isinstance(schema, Mapping):
        said = schema.get("$ref")
        own = {"$ref": place + said[1:]} if isinstance(said, str) and OWN.match(said) else {}
        return {name: _moved(part, place) for name, part in schema.items()} | own
    return [_moved(part, place) for part in schema] if isinstance(schema, list) else schema


def told(request: GenerationRequest) -> GenerationRequest:
    """Return the request for a model that knows no tools: they, earlier calls and results are told in words."""
    names = {part.id: part.name for m in request.messages for part in m.parts if isinstance(part, ToolCall)}
    messages = [_in_words(message, names) for message in request.messages if message.role != "system"]
    system = [request.system] if request.system else []
    if may_call(request):
        system.append(
            TELLING.format("\n".join(strict_json.dumps(described(tool)) for tool in request.offered))
            + (MUST if request.tool_choice.is_forced else MAY)
        )
    if system:
        messages = [Message.of("system", "\n\n".join(system)), *messages]
    return replace(request, messages=tuple(messages), tools=(), tool_choice=ToolChoice())


def may_call(request: GenerationRequest) -> bool:
    """Whether a call is asked for: a small model that is told of functions beside a result calls again, for ever."""
    return bool(request.offered) and (request.tool_choice.is_forced or request.messages[-1].role != "tool")


def described(tool: Tool) -> dict[str, Any]:
    """Return what a model is told of the tool, in OpenAI's words."""
    said = {"name": tool.name, "description": tool.description, "parameters": tool.parameters or NO_PARAMETERS}
    return {name: value for name, value in said.items() if value}


def _in_words(message: Message, names: Mapping[str, str]) -> Message:
    if message.role == "tool":
        return Message("user", tuple(part for result in message.parts for part in _result(result, names)))
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if not calls:
        return message
    said = [f"Calling {call.name} with {call.arguments or '{}'}." for call in calls]
    return Message.of(message.role, "\n".join(filter(None, [message.content, *said])))


def result_text(result: ToolResult) -> str:
    """Return what a result says where the wire has no word for a call that failed."""
    text = Message("tool", result.parts).content
    return f"Error: {text}" if result.is_error and not text.startswith("Error") else text


def _result(result: Any, names: Mapping[str, str]) -> Iterator[Text | Image]:
    name, content = names.get(result.call_id, "the call"), Message("tool", result.parts).content
    yield Text(f"{name} failed: {content}" if result.is_error else f"The result of {name} is: {content}")
    yield from (part for part in result.parts if isinstance(part, Image))


def with_call(chunks: Iterator[Chunk], tools: Sequence[Tool], must: bool = True) -> Iterator[Chunk]:
    """Give a text that is the call of one of `tools` as that. What may be one is held back until its end.

    Unless it `must` be one, that is what begins as JSON does. A format that is refused is the tools', then.
    """
    try:
        yield from _with_call(chunks, tools, must)
    except RequestRefused as error:
        error.param = "tools" if must and error.param == "response_format" else error.param
        raise


def _with_call(chunks: Iterator[Chunk], tools: Sequence[Tool], must: bool) -> Iterator[Chunk]:
    held, called = "", False
    for chunk in chunks:
        held, called = held + chunk.text, called or bool(chunk.calls)
        if chunk.finish_reason:
            call = None if called else _read(held, tools, chunk.finish_reason == "length")
            yield replace(chunk, text="", calls=(call,)) if call else replace(chunk, text=held)
        elif not must and held.strip() and held.lstrip()[0] != "{":
            yield replace(chunk, text=held)
            yield from chunks
        elif chunk.calls or chunk.reasoning:
            yield replace(chunk, text="")


def _read(text: str, tools: Sequence[Tool], is_cut: bool) -> CallPiece | None:
    """Return the call that `text` is, or where it is cut its beginning, with the arguments as they are written."""
    names = [tool.name for tool in tools]
    return _whole(text, names) or (_begun(text, names) if is_cut else None)


def _whole(text: str, names: list[str]) -> CallPiece | None:
    call, found = strict_json.as_object(text) or {}, ARGUMENTS.search(text)
    is_call = call.keys() == {"name", "arguments"} and isinstance(call["arguments"], dict)
    if not (found and is_call and call["name"] in names):
        return None
    _, end = json.JSONDecoder().raw_decode(text, found.end())
    return CallPiece(0, "", call["name"], text[found.end() : end])


def _begun(text: str, names: list[str]) -> CallPiece | None:
    """Of llama.cpp, which writes the members in the order of the alphabet, the name of a cut call is not known."""
    named, found = NAMED.match(text), ARGUMENTS.search(text)
    name = json.loads(named[1]) if named else names[0] if found and len(names) == 1 else None
    return CallPiece(0, "", name, text[found.end() :] if found else "") if name in names else None
