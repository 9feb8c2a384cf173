"""A log made by hand: an hour of three backends, with what goes wrong in one."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

QUESTIONS = (
    *(
        "What is the capital of France?",
        "Write a haiku about rain.",
        "Explain what a hash table is, in three sentences.",
    ),
    *("Summarise this ticket for the next shift.", "Which unit tests are missing here?", "Say hello in Icelandic."),
)
SPEED = {"ollama": 28, "openai": 75, "huggingface": 40}
CALLERS = ("tickets", "search", "notebook")
MODELS = {"ollama": "llama3.2", "openai": "gpt-6-luna", "huggingface": "SmolLM2-135M-Instruct", "stub": "stub"}


def record(number: int, at: float, dice: random.Random, **changes: Any) -> dict[str, Any]:
    """Return a record as the service writes it, of a request at the Unix time `at`."""
    backend = dice.choices(list(SPEED), [6, 3, 2])[0]
    tokens = dice.randint(20, 320)
    first = dice.lognormvariate(5.6, 0.5)
    duration = round(first + tokens / SPEED[backend] * 1000 * dice.uniform(0.8, 1.4), 3)
    question = dice.choice(QUESTIONS)
    whole = {
        **{"timestamp": at, "request_id": f"{number:04x}{dice.getrandbits(112):028x}", "operation": "generate"},
        **{"backend": backend, "requested_backend": backend, "model": MODELS[backend], "request_model": None},
        **{"prompt": question, "system": "Answer briefly.", "response": f"An answer to: {question}"},
        **{"parameters": {"temperature": 0.7}, "input_tokens": dice.randint(12, 90), "output_tokens": tokens},
        **{"cached_tokens": dice.choice([0, 10]), "reasoning_tokens": tokens // 4 if backend == "openai" else 0},
        **{"finish_reason": "stop", "stream": True, "duration_ms": duration, "time_to_first_chunk_ms": round(first, 3)},
        **{"status": "ok", "http_status": 200, "error": None, "fallback": False, "fallback_reason": None},
        **{"attempts": [{"backend": backend, "outcome": "ok", "duration_ms": duration}], "client_ip": "127.0.0.1"},
        **{"caller": dice.choice(CALLERS), "trace_id": None, "schema_version": 1},
    }
    return whole | changes


def hour(path: Path, requests: int = 900, until: float | None = None) -> list[dict[str, Any]]:
    """Write the log of the last hour to `path`, and return its records."""
    dice = random.Random(7)
    until = until or time.time()
    records = []
    for number in range(requests):
        made = record(number, round(until - 3590 * (1 - number / requests), 3), dice)
        if made["requested_backend"] == "ollama" and 400 < number < 470:
            reason = "unreachable" if number < 450 else "timeout"
            attempts = [{"backend": "ollama", "outcome": reason, "duration_ms": 3.1}, *made["attempts"]]
            made |= {"backend": "stub", "model": "stub", "fallback": True, "fallback_reason": reason}
            made |= {"duration_ms": 4.2, "time_to_first_chunk_ms": 3.9, "attempts": attempts}
        elif dice.random() < 0.02:
            error = {"type": "server_error", "code": "server_error", "message": "the backend dropped the connection"}
            made |= {"status": "error", "http_status": 502, "error": error, "response": None, "output_tokens": None}
        elif dice.random() < 0.02:
            made |= {"status": "aborted", "output_tokens": None, "finish_reason": None}
        records.append(made)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return records
