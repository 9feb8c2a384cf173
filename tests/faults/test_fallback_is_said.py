"""Figure 18: no fallback is silent."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from itertools import count

from llm_api.errors import BackendError

from .loads import Service, figure
from .upstreams import HEAD, OPENAI, UNTIL_CLOSED, Peer, Script, Upstream


def status(number: int, **error: str) -> bytes:
    body = json.dumps({"error": {"message": "no", **error}}).encode() if error else b""
    return b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)


# What the upstream answers, None for silence; named by what must be said of it.
ANSWERS: dict[str, tuple[bytes | None, ...]] = {
    "timeout": (None, status(504)),
    "rate_limited": (status(429), status(402), status(429, code="insufficient_quota")),
    "overloaded": (status(503), status(529)),
    "bad_credentials": (status(401), status(403)),
    "model_not_found": (status(404, code="model_not_found"),),
    "server_error": (status(500), status(502), status(408), status(409), b""),
    "invalid_answer": (
        status(404),
        status(307),
        status(418),
        b"no HTTP",
        UNTIL_CLOSED + b"nonsense",
        UNTIL_CLOSED + b"[]",
        UNTIL_CLOSED,
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Content-Length: 100000\r\n\r\n",
        UNTIL_CLOSED + b" " * 17_000_000,
    ),
}
DIALECTS = {"/generate": "generate", "/v1/chat/completions": "chat", "/v1/completions": "completion"}


def answering(turn: bytes | None) -> Script:
    def answer(peer: Peer) -> None:
        if peer.wish["model"] == "well":
            peer.send(UNTIL_CLOSED + OPENAI.whole)
        elif turn is None:
            peer.wait_until_gone()
        else:
            peer.send(turn)

    return answer


def test_every_fallback_is_said(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """Whatever the reason: header, log, metric and details name who answered and why, whole and as a stream."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    far_end = behind(answering(b""))
    # behind the stub, so that it answers for each that a request's model names
    others = {"LLM_FALLBACK": "stub,claude,ollama,huggingface,replay", "OLLAMA_URL": nobody, "HF_BASE_URL": nobody}
    others |= {"REPLAY_MISS": "fallback", "REPLAY_FILE": "nothing.jsonl"}
    service = serve(
        WEB_CONCURRENCY=1, REQUEST_TIMEOUT=1, ALLOW_MODEL_CHOICE="true", **OPENAI.settings(far_end) | others
    )
    said: dict[str, int] = {}
    numbers = count()

    def check(reason: str, asked: str, model: str, streams: tuple[bool, ...] = (False, True)) -> None:
        for path, operation in DIALECTS.items():
            for stream in streams:
                # another model each time: after five failures in a row it is left alone
                fresh = asked == "openai" and reason != "circuit_open"
                body = {"model": f"{model}{next(numbers)}" if fresh else model, "stream": stream, "prompt": "Hi"}
                if operation == "chat":
                    body |= {"messages": [{"role": "user", "content": "Hi"}]}
                    del body["prompt"]
                if operation == "generate":
                    body |= {"details": True}
                labels = f'backend="stub",reason="{reason}",requested_backend="{asked}"'
                before = service.metrics("llm_api_fallbacks_total").get(labels, 0)
                got = service.post(path, body)
                (line,) = service.lines(request_id=got.request_id)
                assert got.status == 200, got.body
                assert (got.headers["X-LLM-Fallback"], got.headers["X-LLM-Backend"]) == (reason, "stub"), got.headers
                assert (line["operation"], line["status"]) == (operation, "ok")
                assert (line["fallback"], line["fallback_reason"]) == (True, reason), line
                assert (line["requested_backend"], line["backend"]) == (asked, "stub")
                outcomes = [(tried["backend"], tried["outcome"]) for tried in line["attempts"]]
                assert outcomes == [(asked, reason), ("stub", "ok")]
                assert service.metrics("llm_api_fallbacks_total")[labels] == before + 1
                if operation == "generate":
                    details = got.objects[-1]["details"]
                    assert (details["backend"], details["fallback_reason"]) == ("stub", reason)
                    assert details["fallback"] is True
                said[reason] = said.get(reason, 0) + 1

    for reason, turns in ANSWERS.items():
        for turn in turns:
            far_end.script = answering(turn)
            check(reason, "openai", "x")
    check("unreachable", "ollama", "ollama/x", streams=(False,))
    check("unreachable", "huggingface", "huggingface/x", streams=(True,))
    check("not_configured", "claude", "claude/x")
    check("not_recorded", "replay", "replay/recorded")
    far_end.script = answering(status(500))
    assert service.say(model="well").ok
    for _ in range(5):
        service.say(model="x")
    check("circuit_open", "openai", "x")

    figure(
        18, f"{sum(said.values())} fallbacks, all said: {', '.join(f'{n} x {reason}' for reason, n in said.items())}"
    )
    # what a backend lacks is no failure of it: tests/unit/test_tools.py
    assert said.keys() == {kind.code for kind in BackendError.__subclasses__()} - {"unsupported"}
