"""flask llm generate: prompt and pipe, options, streams, JSON, exit codes, and the sign of life on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import Log
from click.testing import Result
from flask import Flask

from llm_api.errors import Overloaded, RateLimited, ServerError
from llm_api.testing import ScriptedBackend

ROOT = Path(__file__).parents[2]
Make = Callable[..., Flask]


def run(app: Flask, *args: str, pipe: str | bytes | None = None) -> Result:
    return app.test_cli_runner().invoke(args=["llm", "generate", *args], input=pipe)


# --- what goes in


def test_a_prompt_as_argument(make_app: Make, log_lines: Log) -> None:
    """The answer and nothing else is on stdout; the request has its line as all others."""
    ran = run(make_app(), "What is up?")
    (line,) = log_lines()
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout == line["response"] + "\n"
    assert (line["prompt"], line["operation"], line["client_ip"]) == ("What is up?", "generate", None)


@pytest.mark.parametrize(
    ("pipe", "prompt"), [("Hello\n", "Hello"), ("a\n\nb\n", "a\n\nb"), ("Hello", "Hello"), ("schön ☺\n", "schön ☺")]
)
def test_a_prompt_from_a_pipe(make_app: Make, llm_stub: ScriptedBackend, pipe: str, prompt: str) -> None:
    """It is what was piped, without the newline that every command puts at its end."""
    assert run(make_app(), pipe=pipe.encode()).exit_code == 0
    assert llm_stub.requests[0].turns[0].content == prompt


def test_options(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """Each option has its place in the request; what is not said is not sent."""
    said = ["--system", "Be brief.", "--model", "m", "--max-tokens", "5", "--temperature", "0.5", "--seed", "7"]
    assert run(make_app(), "Hello", *said, "--no-fallback").exit_code == 0
    assert run(make_app(), "Hello").exit_code == 0
    first, second = llm_stub.requests
    assert (first.system, first.model, first.fallback) == ("Be brief.", "m", False)
    assert first.parameters == {"max_tokens": 5, "temperature": 0.5, "seed": 7}
    assert (second.system, second.model, second.fallback, second.parameters) == (None, None, True, {})


# --- what comes out


def test_a_stream(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """--stream prints the same text, asked for as a stream."""
    llm_stub.answers("to be or not")
    ran = run(make_app(), "Hello", "--stream")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "to be or not\n", "")
    assert llm_stub.requests[0].stream


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_json(make_app: Make, llm_stub: ScriptedBackend, stream: list[str]) -> None:
    """--json prints one object with text, who answered, tokens and time, also with --stream."""
    llm_stub.answers("to be")
    ran = run(make_app(), "Hello", "--json", *stream)
    answer = json.loads(ran.stdout)
    assert ran.stdout.count("\n") == 1
    assert answer.pop("duration_ms") >= 0
    assert answer == {
        "text": "to be",
        "request_id": llm_stub.records[0]["request_id"],
        "backend": "scripted",
        "model": "script",
        "finish_reason": "stop",
        "usage": {"input_tokens": 1, "output_tokens": 2},
        "fallback": False,
        "fallback_reason": None,
    }


@pytest.mark.parametrize("how", [[], ["--stream"], ["--json"]])
def test_a_fallback_is_said(make_app: Make, llm_stub: ScriptedBackend, how: list[str]) -> None:
    """Who answered in another's place stands on stderr, so that a pipe gets the answer only."""
    llm_stub.fails(Overloaded("busy"))
    ran = run(make_app(llm_backend="ollama", llm_fallback=("stub",)), "Hello", *how)
    assert (ran.exit_code, ran.stderr) == (0, "answered by stub: overloaded\n")
    assert "[stub]" in ran.stdout
    assert "answered by" not in ran.stdout


# --- how it ends


@pytest.mark.parametrize("how", [[], ["--stream"], ["--json"]])
def test_a_failure(make_app: Make, llm_stub: ScriptedBackend, how: list[str]) -> None:
    """Exit code 1, nothing on stdout, and one line on stderr with the words and the code."""
    llm_stub.fails(ServerError("it broke", detail="at noon"))
    ran = run(make_app(), "Hello", *how)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (1, "", "Error: it broke: at noon (server_error)\n")


def test_no_fallback(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """With --no-fallback a failing backend is a failure."""
    llm_stub.fails(RateLimited("slow down", retry_after=999))
    ran = run(make_app(llm_backend="ollama", llm_fallback=("stub",)), "Hello", "--no-fallback")
    assert (ran.exit_code, ran.stderr) == (1, "Error: slow down (rate_limited)\n")


@pytest.mark.parametrize(
    ("args", "pipe", "words"),
    [
        ([], b"", "prompt: "),
        ([], b"\n", "prompt: "),
        ([], b"caf\xe9", "surrogate"),
        (["a\udce9"], None, "surrogate"),
        (["Hello", "--temperature", "3"], None, "temperature: "),
        (["Hello", "--max-tokens", "0"], None, "max_tokens: "),
        (["Hello", "--model", ""], None, "model: "),
    ],
)
def test_what_is_refused(make_app: Make, args: list[str], pipe: bytes | None, words: str) -> None:
    """What POST /generate would refuse ends with 1 and the same words; no traceback."""
    ran = run(make_app(), *args, pipe=pipe)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: ")
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [["Hello", "--max-tokens", "many"], ["Hello", "there"], ["--unknown"]])
def test_wrong_usage(make_app: Make, args: list[str]) -> None:
    """Exit code 2, as of any command that is used in a wrong way."""
    assert run(make_app(), *args).exit_code == 2


# --- on a terminal
