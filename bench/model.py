"""Tokens per second of the packaged model: through the API, and from the engine alone, the same prompt in turn."""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import xllamacpp

from llm_api.backends.local.engine import engine as local

from . import harness, load, services

PROMPT = "Tell me a long story about a lighthouse."
SYSTEM = "You are a helpful assistant."


class Engine:
    """llama.cpp with the model and the settings that the service gives it, and nothing around it."""

    def __init__(self) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = local._packaged_file()
        params.n_ctx, params.n_parallel = local.CONTEXT_TOKENS * local.PARALLEL, local.PARALLEL
        params.kv_unified = False
        params.cpuparams.n_threads = local.CPU_THREADS
        params.warmup, params.verbosity = False, -1
        self._server = xllamacpp.Server(params)

    def tokens_a_second(self, tokens: int) -> float:
        """Generate that many tokens."""
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
        pieces: list[dict[str, Any]] = []
        began = time.perf_counter()
        self._server.handle_chat_completions(
            {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True,
             "stream_options": {"include_usage": True}},
            lambda piece: bool(pieces.append(piece)),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        usage = next(piece["usage"] for piece in reversed(pieces) if piece.get("usage"))
        return float(usage["completion_tokens"] / seconds)


def service(folder: Path, tokens: int) -> services.Service:
    """Return the service with the model in it."""
    made = services.ours("local", services.provider(), folder, LLM_BACKEND="huggingface", WEB_CONCURRENCY="1")
    made.command = (sys.executable, "-m", "gunicorn", "wsgi:app")
    made.streamed = f'{{"prompt": "%s", "max_tokens": {tokens}, "temperature": 0, "stream": true}}'
    return made


def through_the_api(running: services.Service, tokens: int) -> float:
    """Return tokens per second of one streamed answer of that many tokens."""
    return tokens / load.stream(running, PROMPT).whole


def measure(short: bool, stack: ExitStack, folder: Path) -> dict[str, list[float]]:
    """Take turns."""
    tokens = 32 if short else 256
    engine = Engine()
    running = stack.enter_context(service(folder, tokens).running())
    both = {
        "the API": lambda: through_the_api(running, tokens),
        "the engine alone": lambda: engine.tokens_a_second(tokens),
    }
    harness.interleaved(1, both)  # what is loaded at the first request
    return harness.interleaved(1 if short else 5, both)


def main() -> None:
    """Print the table."""
    short = harness.is_short(__doc__)
    with harness.workshop() as (stack, folder):
        taken = measure(short, stack, folder)
    share = f"{harness.ratio(taken['the API'], taken['the engine alone']):.3f} (≥ 0.95)"
    rates = [harness.number(statistics.median(values)) for values in taken.values()]
    head = ["SmolLM2-135M-Instruct", *(f"{name}, tokens/s" for name in taken), "ratio (aim)"]
    harness.publish("model", harness.table(head, [["one at a time", *rates, share]]))


if __name__ == "__main__":
    main()
