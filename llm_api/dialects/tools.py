"""Tools, the choice among them, and calls in the history, in OpenAI's words, which `/generate` has too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError, fields, post_load, validate

from ..types import Tool, ToolCall, ToolChoice
from .fields import NAME, Nullable, StrictBoolean

MAX_TOOLS = 1_000
# "any" is Mistral's and Anthropic's word; Cursor has the word in an object.
MODES = {mode: mode for mode in ("auto", "none", "required")} | {"any": "required"}
ONLY_FUNCTIONS = "Only functions are served."


class CalledSchema(Nullable):
    """Which function was called."""

    name = fields.String(required=True, validate=validate.Length(1))
    arguments = fields.String(load_default="")


class CallSchema(Nullable):
    """A call that the model made, in the history."""

    id = fields.String(required=True, validate=validate.Length(1))
    type = fields.String(validate=validate.OneOf(["function"], error=ONLY_FUNCTIONS))
    function = fields.Nested(CalledSchema, required=True)
    extra_content = fields.Dict(keys=fields.String())

    @post_load
    def make_call(self, data: dict[str, Any], **kwargs: Any) -> ToolCall:
        """Return the type for a valid call."""
        function = data["function"]
        return ToolCall(data["id"], function["name"], function["arguments"], data.get("extra_content"))


class FunctionSchema(Nullable):
    """What the model may call; `parameters` is a JSON Schema."""

    name = fields.String(required=True, validate=NAME)
    description = fields.String()
    parameters = fields.Dict(keys=fields.String())
    strict = StrictBoolean()


class ToolSchema(Nullable):
    """A tool."""

    type = fields.String(required=True, validate=validate.OneOf(["function"], error=ONLY_FUNCTIONS))
    function = fields.Nested(FunctionSchema, required=True)

    @post_load
    def make_tool(self, data: dict[str, Any], **kwargs: Any) -> Tool:
        """Return the type for a valid tool."""
        return Tool(**data["function"])


class Chosen(NamedTuple):
    """A choice, and the names of the tools that it leaves; None: all."""

    choice: ToolChoice = ToolChoice()
    allowed: frozenset[str] | None = None


class Choice(fields.Field[Chosen]):
    """`auto`, `none`, `required`, the name of a function, or which tools are allowed, as OpenAI has it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Chosen:
        try:
            return _chosen(value)
        except (KeyError, TypeError, AttributeError):
            raise ValidationError("Not auto, none, required, a function or allowed_tools.") from None


def _chosen(said: Any) -> Chosen:
    kind = said["type"] if isinstance(said, dict) else said
    if kind == "function":
        return Chosen(ToolChoice("named", _name(said)))
    if kind == "allowed_tools":
        allowed = said.get("allowed_tools", said)
        if not isinstance(allowed["tools"], list):
            raise TypeError("tools are a list")
        return Chosen(ToolChoice(MODES[allowed["mode"]]), frozenset(map(_name, filter(_is_function, allowed["tools"]))))
    return Chosen(ToolChoice(MODES[kind]))


def _is_function(tool: dict[str, Any]) -> bool:
    kind = tool.get("type", "function")
    if not isinstance(kind, str):
        raise TypeError("a type is a text")
    return kind == "function"


def _name(function: dict[str, Any]) -> str:
    name = function.get("function", function)["name"]  # Responses has it without the object around
    if not isinstance(name, str):
        raise TypeError("a name is a text")
    return name


class Tooled(Schema):
    """The fields of a body that offers tools."""

    tools = fields.List(fields.Nested(ToolSchema), validate=validate.Length(max=MAX_TOOLS))
    tool_choice = Choice()
    parallel_tool_calls = StrictBoolean()


def tool_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request's `tools` and `tool_choice` for those of a valid body. Raises ValidationError."""
    tools: list[Tool] = data.get("tools") or []
    chosen = data.get("tool_choice") or Chosen()
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise ValidationError("Two tools have the same name.", "tools")
    wanted = (chosen.allowed or frozenset()) | ({chosen.choice.name} if chosen.choice.name else set())
    if not wanted <= set(names) or (chosen.choice.is_forced and not (names if chosen.allowed is None else wanted)):
        raise ValidationError("There is no such tool to choose.", "tool_choice")
    if not tools:
        return {"tools": (), "tool_choice": ToolChoice()}
    offered = tuple(tool for tool in tools if chosen.allowed is None or tool.name in chosen.allowed)
    return {"tools": offered, "tool_choice": replace(chosen.choice, parallel=data.get("parallel_tool_calls"))}
