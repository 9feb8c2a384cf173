"""Models in this process through transformers: what HF_MODEL names and is no GGUF file.

It calls back from inside its own loop; `_in_thread` turns that into an iterator that a deadline can stop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from jinja2 import TemplateError

from ...errors import LLMAPIError, ModelNotFound, RequestRefused, ServerError, TimedOut
from ...runtime.deadline import Deadline
from ...runtime.per_process import PerProcess
from ...settings import Settings
from ...types import Chunk, GenerationRequest, Message, Usage
from ..base import Backend, cut_at_stop
from .model import DEFAULT_MAX_TOKENS, find, public_name, too_long, with_system

CONTEXT_TOKENS = 4096
# One request computes on half of the cores; on two cores a second thread made it slower.
CPU_THREADS = max(1, (os.cpu_count() or 2) // 2)

T = TypeVar("T")


class TransformersLocal(Backend):
    """The model HF_MODEL, loaded at a process's first request: one that is loaded before a fork hangs in the child."""

    name = "huggingface"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._engine = PerProcess(lambda: _load(self.model, find(settings.hf_model)))
        # a thread of the parent may hold its own for ever, as its child sees it
        self._loading = PerProcess(threading.Lock)

    @property
    def model(self) -> str:
        return public_name(self.settings.hf_model)

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if request.model not in (None, self.model):
            raise ModelNotFound(f"huggingface serves {self.model!r} only: set HF_MODEL for another", param="model")
        yield from self._loaded(deadline).stream(with_system(request, self.settings.hf_system), deadline)

    def check(self, deadline: Deadline) -> None:
        find(self.settings.hf_model)

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _loaded(self, deadline: Deadline) -> Transformers:
        loading = self._loading()
        if not loading.acquire(timeout=deadline.remaining()):
            raise TimedOut(f"{self.model} is still being loaded")
        try:
            return self._engine()
        finally:
            loading.release()


def _load(name: str, path: str) -> Transformers:
    try:
        return Transformers(name, path)
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
            raise too_long(length + (wanted or 1), context)
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
