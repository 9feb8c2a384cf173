"""LLM_BACKEND=replay: answers from a log, by what was asked; what a miss means; which lines count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve, ask
from flask import Flask
from providers import CLAUDE, OLLAMA, FarEnd, claude_answer, ollama_answer, ollama_stream
from werkzeug.test import TestResponse

from llm_api import LLMAPI

Make = Callable[..., Flask]


@pytest.fixture
def record(tmp_path: Path, make_client: Serve) -> Callable[..., Path]:
    """Return what asks Ollama for `answer` and leaves the log of that; settings after it."""
    day = tmp_path / "day.jsonl"

    def record(answer: str, path: str = "/generate", body: dict[str, Any] | None = None, **settings: Any) -> Path:
        said = {"llm_backend": "ollama", "log_file": str(day)} | settings
        with FarEnd() as far_end:
            far_end.post(OLLAMA.url, json=ollama_answer(answer))
            reply = make_client(**said).post(path, json=body or {"prompt": "Hi"})
            assert reply.status_code == 200, reply.text
        return day

    return record


@pytest.fixture
def replay(tmp_path: Path, make_client: Serve) -> Serve:
    """Return a maker of clients that answer from the log of `record`."""
    return lambda **said: make_client(**{"llm_backend": "replay", "replay_file": str(tmp_path / "day.jsonl")} | said)


def missed(reply: TestResponse) -> bool:
    return (reply.status_code, reply.get_json().get("error", {}).get("code")) == (400, "not_recorded")


# --- what is found


@pytest.mark.parametrize("stream", [False, True])
def test_the_recorded_answer(record: Callable[..., Path], replay: Serve, log_lines: Log, stream: bool) -> None:
    """The same question gets the recorded text, reason, tokens and model, whole and streamed, and a line of its own."""
    record("To be,  or\nnot to be.\n")
    reply = ask(replay(), stream=stream)
    texts = [json.loads(line)["response"] for line in reply.text.splitlines()]
    assert "".join(texts) == "To be,  or\nnot to be.\n"
    assert (len(texts) > 3) == stream
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("replay", "far-model-1")
    (line,) = log_lines()
    assert (line["backend"], line["model"], line["finish_reason"]) == ("replay", "far-model-1", "stop")
    assert (line["input_tokens"], line["output_tokens"]) == (12, 2)


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}


def test_a_file_is_not_replayed(tmp_path: Path, make_client: Serve, replay: Serve) -> None:
    """The log knows only that there was one: neither another file nor none has its answer."""
    turn, words = {"model": "default", "max_tokens": 9}, {"type": "text", "text": "Sum up."}
    asked, alone = (turn | {"messages": [{"role": "user", "content": said}]} for said in ([PDF, words], [words]))
    with FarEnd() as far_end:
        far_end.post(CLAUDE.url, json=claude_answer("It is empty."))
        recorder = make_client(**CLAUDE.settings, log_file=str(tmp_path / "day.jsonl"))
        assert recorder.post("/v1/messages", json=asked).status_code == 200
    assert json.loads((tmp_path / "day.jsonl").read_text())["messages"][0]["documents"] == 1
    assert missed(replay().post("/v1/messages", json=alone))
    assert "replay does not serve documents" in replay().post("/v1/messages", json=asked).text


SAID = {
    "system": {"system": "Be brief."},
    "parameters": {"temperature": 0, "max_tokens": 5, "top_p": 0.5, "stop": ["END", "x"], "seed": 7},
    "one stop": {"stop": "END"},
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_what_was_said_is_what_is_found(record: Callable[..., Path], replay: Serve, said: dict[str, Any]) -> None:
    """System message and parameters are part of the question; stream, details and model are not."""
    record("yes", body={"prompt": "Hi"} | said)
    client = replay()
    assert ask(client, **said).get_json() == {"response": "yes"}
    assert ask(client, **said, details=True, stream=True, model="any", fallback=False).status_code == 200
    assert missed(ask(client))
    assert all(missed(ask(client, **{k: v for k, v in said.items() if k != name})) for name in said)
    assert missed(ask(client, prompt="Hi ", **said))


def test_numbers_are_compared_as_numbers(record: Callable[..., Path], replay: Serve) -> None:
    """What curl calls 0 and Python 0.0 is the same temperature."""
    record("yes", body={"prompt": "Hi", "temperature": 0, "top_p": 1})
    assert ask(replay(), temperature=0.0, top_p=1.0).get_json() == {"response": "yes"}


def test_a_json_schema(record: Callable[..., Path], replay: Serve) -> None:
    """The schema is part of the question, and the recorded answer is held against it."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    record('{"city": "Oslo"}', body={"prompt": "Hi", "response_format": schema})
    client = replay()
    assert ask(client, response_format=schema).get_json() == {"response": '{"city": "Oslo"}'}
    assert missed(ask(client, response_format={"type": "object"}))


def test_conversations_and_dialects(record: Callable[..., Path], replay: Serve) -> None:
    """A chat is found by its messages, also from /generate where it is a prompt; a conversation by all its turns."""
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    longer = [*turns, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    record("short", "/v1/chat/completions", {"model": "default", "messages": turns})
    record("long", "/v1/chat/completions", {"model": "default", "messages": longer})
    client = replay()

    def chat(messages: list[dict[str, str]]) -> str:
        reply = client.post("/v1/chat/completions", json={"model": "default", "messages": messages})
        return reply.get_json()["choices"][0]["message"]["content"]

    assert (chat(turns), chat(longer)) == ("short", "long")
    assert ask(client, prompt="a", system="s").get_json() == {"response": "short"}
    assert missed(ask(client, prompt="c", system="s"))


def test_the_last_answer_counts(record: Callable[..., Path], replay: Serve) -> None:
    """Asked twice that day, the later answer is given; one that is appended meanwhile too."""
    record("first")
    record("second")
    client = replay()
    assert ask(client).get_json() == {"response": "second"}
    record("third")
    assert ask(client).get_json() == {"response": "third"}


def test_a_rotated_log(record: Callable[..., Path], replay: Serve) -> None:
    """After a rotation the new file is read from its start, and what the old one said is still known."""
    day = record("old", body={"prompt": "old"})
    client = replay()
    assert ask(client, prompt="old").get_json() == {"response": "old"}
    day.rename(day.with_suffix(".1"))
    record("a longer answer, so that the new file is not the shorter one", body={"prompt": "new"})
    record("last", body={"prompt": "last"})
    assert ask(client, prompt="new").get_json()["response"].startswith("a longer")
    assert ask(client, prompt="old").get_json() == {"response": "old"}


# --- which lines count


def lines(day: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in day.read_text().splitlines()]


CHANGES: dict[str, dict[str, Any]] = {
    "an error": {"status": "error", "response": None},
    "left half way": {"status": "aborted"},
    "a fallback's": {"attempts": [{"backend": "x", "outcome": "unreachable"}, {"backend": "ollama", "outcome": "ok"}]},
    "a last resort's": {
        "attempts": [
            {"backend": "replay", "outcome": "not_recorded"},
            {"backend": "x", "outcome": "timeout"},
            {"backend": "ollama", "outcome": "ok"},
        ]
    },
    "a cut prompt": {"prompt_truncated": True},
    "a cut answer": {"response_truncated": True},
    "another's fields": {"response": 5},
    "no answer": {"response": None},
    "attempts that are none": {"attempts": [["ollama"]]},
    "turns that are none": {"messages": [5]},
    "a call without its name": {"tool_calls": [{"id": "c", "arguments": "{}"}]},
    "a text as a temperature": {"parameters": {"temperature": "warm"}},
    "half a token": {"output_tokens": 0.5},
    "a reason that nobody knows": {"finish_reason": "weather"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_lines_that_are_no_answers(record: Callable[..., Path], replay: Serve, change: dict[str, Any]) -> None:
    """Failures, halves, cut texts, and what another backend said because the own one failed, are not replayed."""
    day = record("yes")
    (line,) = lines(day)
    day.write_text(json.dumps(line | change) + "\n")
    assert missed(ask(replay()))
    day.write_text(json.dumps(line) + "\n")
    assert ask(replay()).get_json() == {"response": "yes"}


@pytest.mark.parametrize("settings", [{"log_prompts": False}, {"log_max_text": 3}], ids=["hidden", "cut"])
def test_a_log_without_whole_texts(record: Callable[..., Path], replay: Serve, settings: dict[str, Any]) -> None:
    """A log that has no texts, or cut ones, answers nothing rather than something else."""
    record("a long answer", body={"prompt": "Hi"}, **settings)
    assert missed(ask(replay()))
    assert missed(ask(replay(), prompt="H"))


def test_what_is_no_record_is_passed_over(record: Callable[..., Path], replay: Serve) -> None:
    """Torn and foreign lines between the records, and fields that a host's redaction took away, do no harm."""
    day = record("yes")
    (line,) = lines(day)
    bare = {name: line[name] for name in ("timestamp", "prompt", "response", "status")} | {"prompt": "bare"}
    day.write_text(f'no JSON\n{{"a": 1}}\n[]\n\n{json.dumps(bare)}\n{json.dumps(line)}\n{{"torn')
    client = replay()
    assert [ask(client, prompt=prompt).get_json() for prompt in ("Hi", "bare")] == [{"response": "yes"}] * 2


# --- a miss


def test_a_miss_is_an_error(record: Callable[..., Path], replay: Serve, log_lines: Log) -> None:
    """By default nobody else is asked: 400, and words that name the file and both settings."""
    record("yes")
    reply = ask(replay(llm_fallback=("stub",)), prompt="never asked")
    assert missed(reply)
    message = reply.get_json()["error"]["message"]
    assert all(word in message for word in ("day.jsonl", "REPLAY_FILE", "REPLAY_MISS=fallback"))
    assert [line["error"]["code"] for line in log_lines()] == ["not_recorded"]


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_log_that_cannot_be_read_is_a_miss(replay: Serve, tmp_path: Path, kind: str) -> None:
    """A slip in REPLAY_FILE is said, in the answer and by /health, and no stub hides it."""
    if kind == "folder":
        (tmp_path / "day.jsonl").mkdir()
    client = replay(llm_fallback=("stub",))
    assert missed(ask(client))
    health = client.get("/health").get_json()
    assert (health["status"], "day.jsonl" in health["reason"]) == ("degraded", True)


def test_a_miss_goes_through_and_is_recorded(make_client: Serve, log_lines: Log) -> None:
    """With REPLAY_MISS=fallback the next backend answers, and its line is found the next time: it is asked once."""
    client = make_client(llm_backend="replay", llm_fallback=("ollama",), replay_miss="fallback")
    with FarEnd() as far_end:
        far_end.post(OLLAMA.url, json=ollama_answer("fresh"))
        first = ask(client)
        again = ask(client)
        assert len(far_end.calls) == 1
    assert (first.get_json(), first.headers["X-LLM-Fallback"]) == ({"response": "fresh"}, "not_recorded")
    assert (again.get_json(), again.headers["X-LLM-Backend"]) == ({"response": "fresh"}, "replay")
    assert [line["fallback_reason"] for line in log_lines()] == ["not_recorded", None]


def test_a_streamed_miss_is_recorded_too(make_client: Serve) -> None:
    """A streamed answer is recorded with its end."""
    client = make_client(llm_backend="replay", llm_fallback=("ollama",), replay_miss="fallback")
    with FarEnd() as far_end:
        far_end.post(OLLAMA.url, body=ollama_stream("fr", "esh"))
        assert ask(client, stream=True).text.count("\n") == 3
        assert ask(client).get_json() == {"response": "fresh"}
        assert len(far_end.calls) == 1


def test_a_failed_miss_is_not_recorded(make_client: Serve) -> None:
    """What the stub says because the real backend is away is no recording of that backend."""
    said = {"llm_backend": "replay", "llm_fallback": ("ollama", "stub"), "replay_miss": "fallback"}
    client = make_client(**said)
    with FarEnd() as far_end:
        far_end.post(OLLAMA.url, status=500)
        assert ask(client).get_json()["response"].startswith("[stub]")
        far_end.replace("POST", OLLAMA.url, json=ollama_answer("real"))
        assert ask(client).get_json() == {"response": "real"}


def test_python_calls_are_recorded_and_replayed(make_app: Make, log_path: Path, tmp_path: Path) -> None:
    """A log of Python calls answers Python calls."""
    said = LLMAPI.of(make_app()).generate("Hello", temperature=0).text
    demo = make_app(llm_backend="replay", replay_file=str(log_path), log_file=str(tmp_path / "demo.jsonl"))
    assert LLMAPI.of(demo).generate("Hello", temperature=0).text == said
