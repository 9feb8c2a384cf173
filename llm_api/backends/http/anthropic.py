"""Anthropic's Messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import quote

from ... import strict_json
from ...errors import LLMAPIError, QuotaExhausted, RequestRefused
from ...runtime.deadline import Deadline
from ...strict_json import in_an_object
from ...types import (
    BETAS,
    NEEDS,
    CallPiece,
    Chunk,
    GenerationRequest,
    Image,
    Message,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from ..names import named_back, plain, plain_names
from ..told import NO_PARAMETERS
from .base import Vendor
from .connections import Call
from .openai import listed_ids
from .replies import Reply, error_for
from .streams import at, finish_reason

# `max_tokens` is required; thinking counts too and the newer tokenizers need more of them (docs/providers.md, 4.7).
DEFAULT_MAX_TOKENS = 4096
# docs/providers.md, 4.3. What turns thinking off where it is on by default; the other models of 5 can't be told.
OFF, LESS, ADAPTIVE = ({"type": kind} for kind in ("disabled", "between_tools", "adaptive"))
SWITCHES = {"haiku-5.5": OFF, "opus-5.0": OFF, "sonnet-5.0": OFF, "sonnet-5.5": LESS}
VERSION = re.compile(r"(haiku|sonnet|opus)-(\d)(?:[-.](\d{1,2}))?(?!\d)")
EFFORTS = {"minimal": "low"}
# Of a request's fields those that are counted; the others are refused then (platform.claude.com, token counting).
COUNTED = {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "context_management"}
COUNTED |= {"mcp_servers", "cache_control", "speed", BETAS}
NOTHING = Chunk()
# Which of our needs its list of models may say that a model lacks.
CAPABILITIES = {"image_input": "images", "pdf_input": "documents", "structured_outputs": "json_schema"}
SPENT = ("contract_spend_limit_reached", "enforced_spend_limit_reached")


class Claude(Vendor):
    name = prefix = speaks = "claude"
    path = "/v1/messages"
    serves = frozenset({"tools", "tool_choice"})

    @property
    def base_url(self) -> str:
        # the paths have it, other vendors' addresses too
        return super().base_url.removesuffix("/v1")

    def means(self, model: str, listed: str) -> bool:
        # its list has each model's date, an alias has none (docs/providers.md, 4.7)
        return super().means(model, listed) or bool(re.fullmatch(re.escape(model) + r"-\d{8}", listed))

    def abilities(self, model: str | None, deadline: Deadline) -> frozenset[str]:
        # others that speak its wire don't say
        lacks = self.shown_at(_place(model or self.model), deadline, _lacks) if self.is_official else frozenset()
        return frozenset(NEEDS) - {"json_object"} - lacks

    def headers(self) -> dict[str, str]:
        key = self.key()
        return {"anthropic-version": self.settings.claude_version} | ({"x-api-key": key} if key else {})

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        return named_back(super().stream(plain_names(request), deadline), request)

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        model = request.model or self.model
        most = self.allowed(model, request.max_tokens or DEFAULT_MAX_TOKENS)
        fields: dict[str, Any] = {"model": model, "max_tokens": most, "stream": request.stream}
        if (came := request.as_it_came(self.name)) is not None:
            return {**came, **fields, "messages": list(_taken_back(came["messages"]))}
        fields |= _conversation(request) | _tools(request) | (_thinking(request, model) or {})
        if fields.get("thinking", OFF) == OFF:  # thinking takes no other temperature
            fields |= _sampling(request)
        if stops := [stop for stop in request.stop if not stop.isspace()]:
            fields["stop_sequences"] = stops
        if request.response_format:
            wanted = {"format": {"type": "json_schema", "schema": request.response_format.schema}}
            fields["output_config"] = fields.get("output_config", {}) | wanted
        return fields

    def count(self, request: GenerationRequest, deadline: Deadline) -> int | None:
        said = self.payload(request)
        counted = {name: said[name] for name in said.keys() & COUNTED}
        return self.post(f"{self.path}/count_tokens", counted, deadline, lambda body: int(body["input_tokens"]))

    def left_out(self, request: GenerationRequest) -> tuple[str, ...]:
        if request.as_it_came(self.name) is not None:
            return ()
        is_unsaid = request.reasoning_effort and _thinking(request, request.model or self.model) is None
        return super().left_out(request) + (("reasoning_effort",) if is_unsaid else ())

    def unsent_stops(self, request: GenerationRequest, payload: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(stop for stop in request.stop if stop not in payload.get("stop_sequences", ()))

    def whole(self, body: dict[str, Any]) -> list[Chunk]:
        blocks = _Blocks(body.get("model"))
        read = [chunk for n, block in enumerate(body["content"]) for chunk in (blocks.begin(n, block), blocks.end(n))]
        finish, usage = finish_reason(body.get("stop_reason")), _usage(_counts(body))
        return [*(chunk for chunk in read if not chunk.is_empty), Chunk("", finish, usage, body.get("model"))]

    def pieces(self, lines: Iterator[bytes | None]) -> Iterator[Chunk]:
        blocks, counts, stop_reason = _Blocks(), dict[str, Any](), None
        for event in self.events(lines):
            chunk = NOTHING
            if event is None:
                yield chunk
                continue
            match event["type"]:
                case "message_start":
                    blocks.model = event["message"].get("model")
                    # its output is the first token's
                    counts = _counts(event["message"]) | {"output_tokens": None}
                case "content_block_start":
                    chunk = blocks.begin(event["index"], event["content_block"])
                case "content_block_delta":
                    chunk = blocks.piece(event.get("index"), event["delta"])
                case "content_block_stop":
                    chunk = blocks.end(event.get("index"))
                case "message_delta":
                    stop_reason = event["delta"].get("stop_reason") or stop_reason
                    counts |= {k: count for k, count in _counts(event).items() if count or k == "output_tokens"}
                case "message_stop":
                    yield Chunk("", finish_reason(stop_reason), _usage(counts), blocks.model)
                    return
            if not chunk.is_empty:
                yield chunk

    def _call(self, path: str, payload: Mapping[str, Any] | None, deadline: Deadline) -> Call:
        """As for every vendor; a client's betas, a header of its request, are one of ours."""
        said = None if payload is None else {name: payload[name] for name in payload if name != BETAS}
        call = super()._call(path, said, deadline)
        if betas := ",".join(filter(None, [call.headers.get(BETAS), (payload or {}).get(BETAS)])):
            call.headers[BETAS] = betas
        return call

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if reply.status == 429 and _is_spent(reply):
            return QuotaExhausted(f"{self.name} has no budget left for this key (spend limit)", detail=reply.detail)
        return error_for(self.name, reply)

    def check(self, deadline: Deadline) -> None:
        self.get("/v1/models?limit=1", deadline, listed_ids)

    def list_models(self, deadline: Deadline) -> list[str]:
        return self.get("/v1/models?limit=1000", deadline, self._listed)

    def _listed(self, body: Mapping[str, Any]) -> list[str]:
        for model in body["data"]:
            self.shown(_place(str(model["id"])), partial(_lacks, model))
        return listed_ids(body)


def _place(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _lacks(model: dict[str, Any]) -> frozenset[str]:
    said = model.get("capabilities")
    return frozenset(need for word, need in CAPABILITIES.items() if at(said, word, "supported") is False)


class _Blocks:
    """Reads the blocks of an answer, as they are or as they come. Those of a kind that is not known are passed over."""

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        self._calls: dict[object, int] = {}
        self._begun = count()
        self._inputs: dict[object, dict[str, Any]] = {}

    def begin(self, index: object, block: Mapping[str, Any]) -> Chunk:
        match block["type"]:
            case "text":
                return Chunk(block["text"], model=self.model)
            case "thinking":
                return self._thought(block["thinking"], block.get("signature") or None)
            case "redacted_thinking":
                return self._thought(data=block["data"])
            case "tool_use":
                self._calls[index] = next(self._begun)  # servers repeat their indices
                self._inputs[index] = {**(block.get("input") or {})}  # llama.cpp begins without
                return self._call(index, "", block["id"], block["name"])
        return NOTHING

    def piece(self, index: object, delta: Mapping[str, Any]) -> Chunk:
        match delta["type"]:
            case "text_delta":
                return Chunk(delta["text"], model=self.model)
            case "thinking_delta":
                return self._thought(delta["thinking"])
            case "signature_delta":
                return self._thought(signature=delta["signature"])
            case "input_json_delta" if index in self._calls and delta["partial_json"]:
                self._inputs.pop(index, None)
                return self._call(index, delta["partial_json"])
        return NOTHING

    def end(self, index: object) -> Chunk:
        """Return the input that came with a call's beginning, unless it has come in pieces."""
        whole = self._inputs.pop(index, None)
        return NOTHING if whole is None else self._call(index, strict_json.dumps(whole))

    def _thought(self, text: str = "", signature: str | None = None, data: str | None = None) -> Chunk:
        said = text or signature or data
        return Chunk(model=self.model, reasoning=(Reasoning(text, signature, data, Claude.name),) if said else ())

    def _call(self, index: object, arguments: str, call_id: str = "", name: str = "") -> Chunk:
        return Chunk(model=self.model, calls=(CallPiece(self._calls[index], call_id, name, arguments),))


def _tools(request: GenerationRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice
    kind = {"required": "any", "named": "tool"}.get(choice.mode, choice.mode)
    said: dict[str, Any] = {"type": kind} | ({"name": choice.name} if choice.name else {})
    if choice.parallel is False and kind != "none":
        said |= {"disable_parallel_tool_use": True}
    return {"tools": list(map(_tool, request.tools))} | ({"tool_choice": said} if said != {"type": "auto"} else {})


def _tool(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object"} | dict(tool.parameters or NO_PARAMETERS)
    said = {"name": tool.name, "input_schema": schema, "description": tool.description, "strict": tool.strict}
    return {name: value for name, value in said.items() if value}


def _thinking(request: GenerationRequest, model: str) -> dict[str, Any] | None:
    """Return the fields for the effort that is wanted; None where the model can't be told, or not now (4.3)."""
    effort = request.reasoning_effort
    if effort is None:
        return {}
    found = VERSION.search(model)
    # a name that says none is a newer one's, or another vendor's
    version = (int(found[2]), int(found[3] or 0)) if found else (99, 0)
    if effort == "none":
        if version < (5, 0):
            return {}
        switch = SWITCHES.get(f"{found[1]}-{version[0]}.{version[1]}") if found else None
        return {"thinking": switch} if switch else None
    # the older ones want a number of tokens, the next ones refuse it there: the choice is a must, the effort a wish
    if version < (4, 6) or (request.tool_choice.is_forced and version < (4, 8)):
        return None
    told = {"output_config": {"effort": EFFORTS.get(effort, effort)}}
    return told | ({"thinking": ADAPTIVE} if version < (5, 0) else {})


class _Ids:
    """The ids of a conversation's calls as Anthropic takes them: no two alike, where those of a client repeat."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._waiting: list[tuple[str, str]] = []

    def of_call(self, said: str) -> str:
        self._times[said] = times = self._times.get(said, 0) + 1
        written = plain(said if times == 1 else f"{said}.{times}")
        self._waiting.append((said, written))
        return written

    def of_result(self, said: str) -> str:
        call = next((call for call in self._waiting if call[0] == said), None)
        if call is None:
            raise RequestRefused(f"the result for {said[:64]!r} has no such call before it", param="messages")
        self._waiting.remove(call)
        return call[1]

    def check(self) -> None:
        """Raise RequestRefused where a call has no result."""
        for said, _ in self._waiting:
            raise RequestRefused(f"the call {said[:64]!r} has no result right after it", param="messages")


def _conversation(request: GenerationRequest) -> dict[str, Any]:
    """Return the system text and the turns: empty ones are refused, and so is a conversation without any (4.3)."""
    turns = _turns(request.turns)
    system = (request.system or "").strip() and request.system
    if turns:
        return {"messages": turns} | ({"system": system} if system else {})
    return {"messages": [{"role": "user", "content": system or request.messages[-1].content}]}


def _taken_back(messages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield Anthropic's own messages as its provider takes them back, which may not have made all that is in them.

    Thoughts without a signature are another's, and so are ids with characters that it does not know.
    """
    ids = _Ids()
    written = {"tool_use": ("id", ids.of_call), "tool_result": ("tool_use_id", ids.of_result)}
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [dict(block) for block in content if block["type"] != "thinking" or block.get("signature")]
            for block in content:
                block.pop("extra_content", None)  # what another provider wants back
                if block["type"] in written:
                    name, of = written[block["type"]]
                    block[name] = of(block[name])
        if content:
            yield {**message, "content": content}


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the turns; the results of one's calls are one user's turn, before what the user says then."""
    ids = _Ids()
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role != "tool":
            ids.check()
        content = _content(message.parts, ids)
        last = turns[-1]["content"] if turns and message.role != "assistant" else ""
        if content and not isinstance(last, str) and last[0]["type"] == "tool_result":
            last += [{"type": "text", "text": content}] if isinstance(content, str) else content
        elif content:
            turns.append({"role": "user" if message.role == "tool" else message.role, "content": content})
    ids.check()
    return turns


def _content(parts: tuple[Part, ...], ids: _Ids) -> str | list[dict[str, Any]]:
    """Return the parts as blocks, or as a text where they are no more than that; "" where it is empty."""
    if not all(isinstance(part, Text) for part in parts):
        return [block for part in parts if (block := _block(part, ids))]
    text = Message("", parts).content
    return text if text.strip() else ""


def _block(part: Part, ids: _Ids) -> dict[str, Any] | None:
    match part:
        case Text(text):
            return {"type": "text", "text": text} if text.strip() else None
        case Image(kind, data, url):
            base64 = {"type": "base64", "media_type": kind, "data": data}
            return {"type": "image", "source": {"type": "url", "url": url} if url else base64}
        case ToolCall(said, name, arguments):
            value = in_an_object(arguments)
            return {"type": "tool_use", "id": ids.of_call(said), "name": name, "input": value}
        case ToolResult(said, found, is_error):
            result = {"type": "tool_result", "tool_use_id": ids.of_result(said)}
            content = _content(found, ids)
            return result | ({"content": content} if content else {}) | ({"is_error": True} if is_error else {})
        case Reasoning(text, signature, data, Claude.name):
            if signature:
                return {"type": "thinking", "thinking": text, "signature": signature}
            return {"type": "redacted_thinking", "data": data} if data else None
    return None


def _sampling(request: GenerationRequest) -> dict[str, float]:
    """Return temperature or top_p: some models refuse both together (4.3). One that is 1 says nothing."""
    # OpenAI's scale ends at 2, Anthropic's at 1
    temperature = None if request.temperature is None else min(request.temperature, 1)
    if temperature is None or (request.temperature == 1 and request.top_p not in (None, 1)):
        return {} if request.top_p is None else {"top_p": request.top_p}
    return {"temperature": temperature}


def _counts(message: Mapping[str, Any]) -> dict[str, Any]:
    counts = message.get("usage")
    return counts if isinstance(counts, dict) else {}


def _usage(counts: Mapping[str, Any]) -> Usage:
    """Return the counts; `input_tokens` lacks what the cache was read or written (docs/providers.md, 1.4)."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    sent = counts.get(names[0]), *(counts.get(name) or 0 for name in names[1:])
    read = [Usage.of(count).input_tokens for count in sent]
    thought = at(counts, "output_tokens_details", "thinking_tokens")
    total = None if None in read else sum(filter(None, read))
    return Usage.of(total, counts.get("output_tokens"), counts.get(names[2]), thought)


def _is_spent(reply: Reply) -> bool:
    """A rate limit names the time to wait; a spend limit does not (docs/providers.md, 1.5).

    An error inside an answer has no headers to tell.
    """
    return at(reply.error, "details", "error_code") in SPENT or bool(
        reply.headers and "retry-after" not in reply.headers
    )
