"""Models in the engine's process through transformers: what HF_MODEL names and is no GGUF file.

Answers are computed side by side by the library's continuous batching. One with a seed has the model to itself: torch's
random numbers are one global state, and what a batch rounds depends on who is in it. Nothing here runs in a worker.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream
from transformers.generation.configuration_utils import ContinuousBatchingConfig

# The library's own.
PAGE_TOKENS = 256
# On a CPU: of prompts, in one step; more made the others wait longer.
STEP_TOKENS = 512
# A batch has no other word for it: of equal tokens the second of these leaves one.
GREEDY = {"temperature": 1.0, "top_k": 1, "top_p": 0.01}
# With less, what is divided by it is no number any more, and on a GPU that ends the process.
MIN_TEMPERATURE = 1e-3


class EngineBroken(Exception):
    """The library has given up; its words are the argument."""


@dataclass(frozen=True)
class Wish:
    """What a request says about its answer; None: nothing."""

    limit: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def sampling(self, defaults: Mapping[str, float]) -> dict[str, float]:
        """Return how to choose among the tokens: the likeliest where nothing is said of that."""
        warm = None if self.temperature is None else max(self.temperature, MIN_TEMPERATURE)
        wanted = {"temperature": warm, "top_p": self.top_p}
        said = {name: float(value) for name, value in wanted.items() if value is not None}
        return {**defaults, **said} if said and self.temperature != 0 else GREEDY


class TorchModel:
    """The model in the folder `path`, on the best device there is."""

    def __init__(self, path: str, *, context: int, slots: int, threads: int) -> None:
        transformers.logging.set_verbosity_error()
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        device, dtype = _device()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self._decoder = self._tokenizer.backend_tokenizer
        self._model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
        self.context = min(context, getattr(self._model.config, "max_position_embeddings", None) or context)
        self._config = self._model.generation_config
        self._defaults = _defaults(self._model)
        # the same weights, in a copy whose attention the library makes ready for batches
        shared = {id(weights): weights for weights in (*self._model.parameters(), *self._model.buffers())}
        self._batches = _Batches(copy.deepcopy(self._model, shared), slots * context)
        # for life: in a thread made for each answer, CUDA made its handles again, which took two thirds of the time
        self._thread = ThreadPoolExecutor(1)

    async def begin(self) -> None:
        """Answer once, so that all is loaded and what can't be batched is found out."""
        await self._batches.begin()

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the conversation's tokens. Raises TemplateError where the model's template refuses it."""
        if not self._tokenizer.chat_template:
            text = "\n".join(turn["content"] for turn in messages if turn["role"] != "system")
            return list(self._tokenizer(text)["input_ids"])
        try:
            return self._templated(messages)
        except TemplateError:  # some templates know no system role
            first = {"role": "user", "content": "\n\n".join(turn["content"] for turn in messages[:2])}
            return self._templated([first, *messages[2:]])

    def _templated(self, messages: list[dict[str, str]]) -> list[int]:
        return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])

    def text(self) -> Callable[[int], str]:
        """Return what gives one answer's text, token by token; "" where a character is not complete."""
        stream = DecodeStream([], skip_special_tokens=True)

        def text_of(token: int) -> str:
            nonlocal stream
            try:
                return stream.step(self._decoder, token) or ""
            except Exception:  # it has no other; bytes that are no UTF-8 change what it has decoded before
                stream = DecodeStream([], skip_special_tokens=True)
                return stream.step(self._decoder, token) or ""

        return text_of

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answers with this token."""
        ends = self._config.eos_token_id
        return token in ends if isinstance(ends, list) else token == ends

    def answer(self, prompt: list[int], wish: Wish) -> AsyncGenerator[list[int]]:
        """Yield the answer's tokens as they come. Closing it stops the model. Raises EngineBroken."""
        sampling = wish.sampling(self._defaults)
        if wish.seed is None and self._batches.work:
            return self._batches.answer(prompt, wish.limit, sampling)
        return self._alone(prompt, wish, sampling)

    async def _alone(self, prompt: list[int], wish: Wish, sampling: dict[str, float]) -> AsyncGenerator[list[int]]:
        loop, news, left = asyncio.get_running_loop(), asyncio.Queue[list[int]](), threading.Event()

        def put(tokens: list[int]) -> bool:
            loop.call_soon_threadsafe(news.put_nowait, tokens)
            return left.is_set()

        async with self._batches.resting():
            done = loop.run_in_executor(self._thread, self._generate, prompt, wish, sampling, put)
            try:
                while tokens := await news.get():
                    yield tokens
                await done
            finally:
                left.set()
                await asyncio.wait([done])

    def _generate(
        self, prompt: list[int], wish: Wish, sampling: dict[str, float], put: Callable[[list[int]], bool]
    ) -> None:
        def is_over(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return torch.full((1,), put([int(ids[0, -1])]), device=ids.device)

        ids = torch.tensor([prompt], device=self._model.device)
        if wish.seed is not None:
            torch.manual_seed(wish.seed)
        try:
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                **sampling,
                max_new_tokens=wish.limit,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                stopping_criteria=[is_over],
            )
        except Exception as error:  # after an error on a GPU nothing there works any more
            raise EngineBroken(f"{type(error).__name__}: {error}") from error
        finally:
            put([])


class _Batches:
    """The library's continuous batching, in its own thread for life; it rests while an answer is made alone."""

    def __init__(self, model: Any, tokens: int) -> None:
        self._names = map(str, itertools.count())
        self._turn, self._idle, self._active = asyncio.Lock(), asyncio.Event(), 0
        self._idle.set()
        self._manager = _manager(model, tokens)

    @property
    def work(self) -> bool:
        """Whether this model can be batched."""
        return self._manager is not None

    async def begin(self) -> None:
        """Answer once: what can't be batched is not always known before."""
        if self.work:
            try:
                async for _ in self.answer([0], 2, GREEDY):
                    pass
            except EngineBroken:
                self._manager, self._active = None, 0
                self._idle.set()

    async def answer(self, prompt: list[int], limit: int, sampling: dict[str, float]) -> AsyncGenerator[list[int]]:
        """Yield the tokens. Raises EngineBroken."""
        async with self._turn:
            self._active += 1
            self._idle.clear()
        name, news, seen, finished = next(self._names), asyncio.Queue[Any](), 0, False
        try:
            self._ask(name, prompt, limit, sampling, news.put_nowait)
            while not finished:
                output = await news.get()
                finished = output.is_finished()
                if output.error:
                    raise EngineBroken(output.error)
                if new := output.generated_tokens[seen:]:
                    yield new
                seen += len(new)
        finally:
            if finished:
                self._left()
            else:
                self._cancel(name)

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Hold the next answers back, and wait until those that have begun have ended."""
        async with self._turn:
            await self._idle.wait()
            yield

    def _ask(
        self, name: str, prompt: list[int], limit: int, sampling: dict[str, float], take: Callable[[Any], object]
    ) -> None:
        self._manager.register_result_handler(name, take)
        if self._manager.add_request(prompt, request_id=name, max_new_tokens=limit, streaming=True, **sampling) is None:
            raise EngineBroken("it takes no more requests")
        if not self._manager.is_running():
            self._manager.start()

    def _cancel(self, name: str) -> None:
        """Stop an answer; it has left when one token that is asked for after it is there."""
        self._manager.cancel_request(name)
        self._manager.output_router.result_handlers.pop(name, None)
        self._ask(next(self._names), [0], 1, GREEDY, self._left)

    def _left(self, *_: object) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()


def _manager(model: Any, tokens: int) -> Any:
    """Return the library's manager, or None where it is not made for this model.

    One with an attention of its own is batched without a word, and attends to the other answers' tokens.
    """
    if not model._supports_attention_backend:
        return None
    config = copy.deepcopy(model.generation_config)
    # what has no value here can have none in a request either
    config.update(do_sample=True, temperature=0.7, top_p=0.9, top_k=50)
    # its own measure of a GPU's memory is a good one
    room = {"num_blocks": math.ceil(tokens / PAGE_TOKENS), "max_batch_tokens": STEP_TOKENS}
    room = {} if model.device.type == "cuda" else room
    wanted = ContinuousBatchingConfig(use_cuda_graph=True, per_request_processors=True, **room)
    try:
        return model.init_continuous_batching(generation_config=config, continuous_batching_config=wanted)
    except (AttributeError, ValueError):
        return None


def _defaults(model: Any) -> dict[str, Any]:
    """Return the sampling of a request that names only a part of it: the model's own, else the library's."""
    config, vocabulary = model.generation_config, model.config.get_text_config().vocab_size
    return {
        "temperature": float(config.temperature or 1),
        "top_p": float(config.top_p or 1),
        "top_k": min(50 if config.top_k is None else config.top_k or vocabulary, vocabulary),
    }


def _device() -> tuple[str, torch.dtype]:
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16
    return ("mps", torch.float16) if torch.backends.mps.is_available() else ("cpu", torch.float32)
