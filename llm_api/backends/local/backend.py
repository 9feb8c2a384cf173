"""A model on this machine, in a process of its own: OpenAI's wire over a Unix socket, as to any other server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import strict_json
from ...errors import (
    InvalidAnswer,
    LLMAPIError,
    ModelNotFound,
    RequestRefused,
    ServerError,
    Unreachable,
    Unsupported,
)
from ...runtime.cores import usable_cores
from ...runtime.deadline import Deadline
from ...runtime.memory import free_bytes
from ...runtime.per_process import PerProcess
from ...settings import Settings
from ...strict_json import in_an_object
from ...types import Chunk, EmbeddingRequest, Embeddings, GenerationRequest, Message, ResponseFormat, ToolCall
from .. import grammars
from ..http.connections import Adapter
from ..http.openai import OpenAIWire
from ..http.replies import Reply, error_for
from ..told import call_schema, may_call, told, with_call
from .engine import Engine
from .model import find, public_name
from .weights import cache_bytes

DEFAULT_MAX_TOKENS = 1024
TOOLS, BY_GRAMMAR = frozenset({"tools"}), frozenset({"json_object", "json_schema", "tool_choice"})
NO_IMAGES = re.compile("image input is not supported")
MISFIT = re.compile("produced output that does not match")
TOO_LARGE = re.compile(r"\((\d+) tokens\) is too large to process.*batch size: (\d+)")
# Our names for llama.cpp's.
NUMBERS = {
    "engine_prompt_tokens_total": "prompt_tokens_total",
    "engine_prompt_seconds_total": "prompt_seconds_total",
    "engine_answer_tokens_total": "tokens_predicted_total",
    "engine_answer_seconds_total": "tokens_predicted_seconds_total",
    "engine_slots_busy": "requests_processing",
    "engine_requests_waiting": "requests_deferred",
}


class HuggingFaceLocal(OpenAIWire):
    """The model that HF_MODEL names, or the packaged one."""

    name = "huggingface"  # with no prefix: HF_EXTRA_BODY and HF_EXTRA_HEADERS are for the cloud
    path = "/v1/chat/completions"
    embed_path = "/v1/embeddings"
    fetches_images = False  # llama.cpp's server would, from anywhere

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._engine = PerProcess(self._make_engine)

    @property
    def model(self) -> str:
        return public_name(self.settings.hf_model)

    @property
    def context(self) -> int:
        return self.settings.hf_context

    @property
    def embed_model(self) -> str | None:
        with suppress(LLMAPIError):  # whoever asks it for vectors is told
            return self.model if self._found()["is_gguf"] else None
        return self.model

    @property
    def base_url(self) -> str:
        return "http://engine"

    def headers(self) -> dict[str, str]:
        # an idle connection would hold one of its threads for five seconds
        return {**super().headers(), "Connection": "close"}

    def key(self) -> str:
        return self._engine().key

    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        if request.system is None:  # SmolLM2's template would put in its own, and answers worsen
            system = Message.of("system", self.settings.hf_system)
            request = replace(request, messages=(system, *request.turns))
        return {"max_tokens": DEFAULT_MAX_TOKENS, **super().payload(request)}

    def begin(self) -> None:
        self._engine().begin()

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if wanted := request.response_format:
            request = replace(request, response_format=replace(wanted, schema=grammars.fitting(wanted.schema)))
        with self._leased(request.model, deadline) as engine:
            for chunk in self._answer(request, deadline):
                if chunk.finish_reason:
                    engine.served()
                yield chunk

    def count(self, request: GenerationRequest, deadline: Deadline) -> int | None:
        if not self._found()["is_gguf"]:
            return None
        with self._leased(request.model, deadline):
            asked = told(request) if request.tools and not self._takes_tools(deadline) else request
            prompt = self.post("/apply-template", self.payload(asked), deadline, lambda body: str(body["prompt"]))
            said = {"content": prompt, "parse_special": True}
            return self.post("/tokenize", said, deadline, lambda body: len(body["tokens"]))

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        if not self.embed_model:
            raise Unsupported("models in transformers make no embeddings here, GGUF models do", param="model")
        with self._leased(request.model, deadline) as engine:
            found = super().embed(request, deadline)
            engine.served()
            return found

    @contextmanager
    def _leased(self, model: str | None, deadline: Deadline) -> Iterator[Engine]:
        if model not in (None, self.model):
            raise ModelNotFound(f"huggingface serves {self.model!r} only: set HF_MODEL for another", param="model")
        engine = self._engine()
        lease = engine.lease(deadline)
        try:
            yield engine
        except (InvalidAnswer, ServerError, Unreachable) as error:
            raise engine.cause_of(error, lease) from None

    def _answer(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        """Yield the answer; where tools are involved, as far as the model's template knows them.

        llama.cpp's own way to make it call lets text come first, and does not hold to a name: a grammar does.
        """
        must = request.tool_choice.is_forced and bool(request.offered)
        if "tools" not in request.needs and not must:
            return super().stream(replace(request, tools=()), deadline)
        if not must and self._takes_tools(deadline):
            schemas = grammars.fitting([tool.parameters for tool in request.tools], "tools", grammars.MAX_TOOLS_CHARS)
            tools = [replace(tool, parameters=each) for tool, each in zip(request.tools, schemas, strict=True)]
            messages = tuple(map(_with_objects, request.messages))
            return super().stream(replace(request, tools=tuple(tools), messages=messages), deadline)
        asked = told(request)
        if must:
            schema = grammars.fitting(call_schema(request.offered), "tools")
            asked = replace(asked, response_format=ResponseFormat(schema))
        chunks = super().stream(asked, deadline)
        return with_call(chunks, request.offered, must) if may_call(request) else chunks

    def _takes_tools(self, deadline: Deadline) -> bool:
        return self.get("/props", deadline, lambda body: bool(body.get("chat_template_caps", {}).get("supports_tools")))

    def abilities(self, model: str | None, deadline: Deadline) -> frozenset[str]:
        found = self._found()
        # of one that is not fetched yet, its server says what it can't
        by_grammar = BY_GRAMMAR if found["is_gguf"] else set()
        return TOOLS | by_grammar | ({"images"} if found["is_remote"] or found["projector"] else set())

    def _found(self) -> dict[str, Any]:
        return find(self.settings.hf_model, self.settings.hf_mmproj)

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if "n_ctx" in reply.error:
            taken, room = reply.error["n_prompt_tokens"], reply.error["n_ctx"]
            said = f"the request takes {taken} tokens, the model's context has {room}"
            return RequestRefused(said, code="context_length_exceeded", param="prompt")
        if large := TOO_LARGE.search(reply.wording):
            said = f"a text takes {large[1]} tokens, and of {large[2]} at most a vector is made"
            return RequestRefused(said, code="context_length_exceeded", param="input")
        if NO_IMAGES.search(reply.wording):
            return RequestRefused("this model sees no images: HF_MMPROJ names what it needs for that", param="messages")
        if MISFIT.search(reply.wording):
            return InvalidAnswer("the model's answer is not in the form that was asked for")
        if reply.status == 400:
            return grammars.refused(reply.detail, "response_format" if "response_format" in (payload or {}) else None)
        return error_for(self.name, reply)

    def check(self, deadline: Deadline) -> None:
        self._found()
        if self._engine().check():
            self.get("/health", deadline, lambda body: body["status"])

    @property
    def is_begun(self) -> bool:
        return self._engine().check() is not None

    def caveat(self, deadline: Deadline) -> str | None:
        if self.is_begun:
            return None  # it has what it needs
        model, context, slots = self._found(), self.settings.hf_context, self.settings.hf_slots
        needed = model["size"] + cache_bytes(Path(model["model"]), context * slots)
        if needed <= (free := free_bytes()):
            return None
        return (
            f"{self.model} with {slots} slots of {context:,} tokens takes {needed / 2**30:.1f} GiB, and"
            f" {free / 2**30:.1f} are free: lower HF_SLOTS or HF_CONTEXT, or take a smaller model"
        )

    def has_model(self, deadline: Deadline) -> bool:
        self.check(deadline)
        return True

    def numbers(self, deadline: Deadline) -> dict[str, float]:
        if not (lease := self._engine().check()):
            return {}
        said = dict(re.findall(r"^llamacpp:(\w+) (\S+)$", self.fetch("/metrics", deadline).decode(), re.MULTILINE))
        told = {ours: float(said[theirs]) for ours, theirs in NUMBERS.items() if theirs in said}
        hello = lease.hello.result()
        return told | {"engine_starts_total": hello["starts"], "engine_resident_bytes": _resident(hello["pid"])}

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _make_engine(self) -> Engine:
        settings = self.settings
        asked = {
            "name": self.model,
            **self._found(),
            "context": settings.hf_context,
            "slots": settings.hf_slots,
            "threads": settings.hf_threads or usable_cores(),
        }
        said = {"HF_TOKEN": settings.hf_api_key, "HTTPS_PROXY": settings.http_proxy_url}
        return Engine(self.model, asked, {name: value for name, value in said.items() if value})

    def _make_adapter(self) -> Adapter:
        return Adapter(self.base_url, None, 0, self._engine().socket)


def _resident(pid: int) -> float:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1] if Path("/proc").exists() else "nan"
    return float(pages) * os.sysconf("SC_PAGE_SIZE")


def _with_objects(message: Message) -> Message:
    """Return the message with arguments that are objects: on others llama.cpp's server fails."""
    parts = [
        replace(part, arguments=strict_json.dumps(in_an_object(part.arguments))) if isinstance(part, ToolCall) else part
        for part in message.parts
    ]
    return replace(message, parts=tuple(parts))
