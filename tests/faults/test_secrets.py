"""Figures 17 and 19: keys, and with LOG_PROMPTS=false prompts, looked for in all that leaves the process."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llm_api.settings import Settings

from .loads import CHAT, Answer, Service, eventually, figure
from .upstreams import HEAD, TEXT, UNTIL_CLOSED, WIRES, Peer, Script, Upstream, Wire

PROMPT = "canary prompt"
WORDS = ("capital", "Paris")  # of the upstreams' answers
STATUSES = (302, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 503, 504, 529)
CALLERS_KEY = "canary-callers-key"


def quoted(peer: Peer) -> str:
    """All that the service said: its keys, and the prompt."""
    return f"{peer.head.decode()} {json.dumps(peer.wish)}"


def key_of(peer: Peer) -> str:
    """The key alone, as a word."""
    lines = peer.head.decode().split("\r\n")
    keys = [line.split()[-1] for line in lines if line.lower().startswith(("authorization:", "x-api-key:"))]
    return keys[0] if keys else "none"


def status(code: int) -> Callable[[Peer, Wire], bytes]:
    def say(peer: Peer, wire: Wire) -> bytes:
        key = key_of(peer)
        error = {"message": quoted(peer), "type": key, "code": key, "param": key, "details": {"error_code": key}}
        head = f"HTTP/1.1 {code} {key}\r\nLocation: /{key}\r\nX-Key: {key}\r\nConnection: close\r\n\r\n"
        return head.encode() + json.dumps({"error": error}).encode()

    return say


def error_as_text(peer: Peer, wire: Wire) -> bytes:
    return b"HTTP/1.1 404 No\r\nConnection: close\r\n\r\n" + json.dumps({"error": quoted(peer)}).encode()


def page(peer: Peer, wire: Wire) -> bytes:
    return UNTIL_CLOSED + f"<html>{quoted(peer)}".encode()


def other_shape(peer: Peer, wire: Wire) -> bytes:
    return (
        UNTIL_CLOSED + json.dumps({"choices": quoted(peer), "content": quoted(peer), "message": quoted(peer)}).encode()
    )


def error_in_a_stream(peer: Peer, wire: Wire) -> bytes:
    key = key_of(peer)
    error = json.dumps(
        {"type": "error", "error": {"type": key, "message": quoted(peer), "code": key}, "error_type": key}
    )
    event = error if wire.name == "ollama" else f"data: {error}\n"
    return UNTIL_CLOSED + b"".join(wire.pieces[:2]) + event.encode() + b"\n"


def broken_framing(peer: Peer, wire: Wire) -> bytes:
    return HEAD + f"Transfer-Encoding: chunked\r\n\r\n{quoted(peer)}".encode()


def no_http(peer: Peer, wire: Wire) -> bytes:
    return quoted(peer).encode()


def dropped(peer: Peer, wire: Wire) -> bytes:
    return b""


def cut(peer: Peer, wire: Wire) -> bytes:
    return UNTIL_CLOSED + (b"".join(wire.pieces) if peer.wish["stream"] else wire.whole[:-5])


def well(peer: Peer, wire: Wire) -> bytes:
    return UNTIL_CLOSED + (wire.stream if peer.wish["stream"] else wire.whole)


def named_like_a_key(peer: Peer, wire: Wire) -> bytes:
    return well(peer, wire).replace(b'"far"', json.dumps(key_of(peer)).encode())


WAYS: dict[str, Callable[[Peer, Wire], bytes]] = {f"status {code}": status(code) for code in STATUSES}
WAYS |= {
    way.__name__: way
    for way in (error_as_text, page, other_shape, error_in_a_stream, broken_framing, no_http, dropped, cut, well)
}


def far_ends(
    behind: Callable[[Script], Upstream], ways: dict[str, Callable[[Peer, Wire], bytes]]
) -> dict[Wire, Upstream]:
    """Run an upstream for each wire, which answers in the way that the request's model names."""

    def script(wire: Wire) -> Script:
        return lambda peer: peer.send(ways.get(peer.wish["model"], well)(peer, wire))

    return {wire: behind(script(wire)) for wire in WIRES}


def settings_before(far_ends: dict[Wire, Upstream]) -> dict[str, str]:
    """Return the settings of a service whose models may be those of any of these."""
    names = [wire.name for wire in far_ends]
    chain = {"LLM_BACKEND": names[0], "LLM_FALLBACK": ",".join([*names[1:], "stub"]), "ALLOW_MODEL_CHOICE": "true"}
    return {wire.address: far_end.address for wire, far_end in far_ends.items()} | chain | {"HF_MODE": "cloud"}


def ask_all(service: Service, ways: dict[str, Callable[[Peer, Wire], bytes]], **headers: str) -> Iterator[Answer]:
    """Ask each upstream in each dialect, whole and as a stream, for each way to answer."""
    turn = {"role": "user", "content": PROMPT}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"prompt": PROMPT, "system": PROMPT, "stop": [PROMPT], "details": True}),
        ("/generate", {"prompt": PROMPT, "stream": True}),
        (CHAT, {"messages": [turn | {"role": "system"}, turn]}),
        (CHAT, {"messages": [turn], "stream": True}),
        ("/v1/completions", {"prompt": PROMPT}),
    ]
    for wire in WIRES:
        for number, way in enumerate(ways):
            path, body = bodies[number % len(bodies)]
            for fallback in (False, True):
                # a success between failures, or the backend is left alone
                yield service.post("/generate", {"prompt": PROMPT, "model": f"{wire.name}/well"}, **headers)
                yield service.post(path, body | {"model": f"{wire.name}/{way}", "fallback": fallback}, **headers)


def raw(service: Service, data: bytes) -> bytes:
    """Send bytes and return all that comes."""
    said = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as sock, suppress(ConnectionError):
        sock.sendall(data)
        while received := sock.recv(65_536):
            said += received
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)  # it may keep the connection
    return said


def secret_settings(far_ends: dict[Wire, Upstream], passwords: bool) -> tuple[dict[str, str], list[str]]:
    """Return a value for every setting that may hold a secret, and what must be nowhere.

    A password in an address takes a key's place in the request, so there are two services to look at.
    """
    ports = {wire.address: far_end.server_address[1] for wire, far_end in far_ends.items()}
    settings, canaries = {}, []
    for field in dataclasses.fields(Settings):
        name = field.metadata["other_names"][0] if field.metadata["other_names"] and passwords else field.name.upper()
        canary = f"canary-{field.name}"
        rule = field.metadata["rule"]
        if rule.is_secret:
            settings[name] = f"alice:{CALLERS_KEY}" if field.name == "api_keys" else canary
            if rule.is_free:
                settings[name] = json.dumps({"x-one": canary})
            canaries.append(CALLERS_KEY if field.name == "api_keys" else canary)
        elif rule.hides and passwords:
            scheme = "redis" if field.name == "rate_limit_storage" else "http"
            canary += "/@:%"
            settings[field.name.upper()] = (
                f"{scheme}://user:{quote(canary, safe='')}@127.0.0.1:{ports.get(field.name.upper(), 9)}"
            )
            canaries += [canary, quote(canary, safe=""), base64.b64encode(f"user:{canary}".encode()).decode()]
    return settings, canaries


@pytest.mark.parametrize("passwords", [False, True], ids=["keys", "passwords"])
def test_keys(serve: Callable[..., Service], behind: Callable[[Script], Upstream], passwords: bool) -> None:
    """No key that the service has, and none of a caller, is in an answer, the log, the output, /config or /metrics."""
    ways = WAYS | {"named_like_a_key": named_like_a_key}
    upstreams = far_ends(behind, ways)
    secrets, canaries = secret_settings(upstreams, passwords)
    service = serve(WEB_CONCURRENCY=1, **settings_before(upstreams) | secrets)
    bearer = {"Authorization": f"Bearer {CALLERS_KEY}"}
    answers = list(ask_all(service, ways, **bearer))
    answers += [service.post("/generate", {"prompt": "Hi"}, **wrong) for wrong in (
        {"Authorization": f"Basic {CALLERS_KEY}"}, {"Authorization": f"Bearer {CALLERS_KEY}-"}, {"x-api-key": "x"},
    )]  # fmt: skip
    bodies: list[dict[str, Any]] = [{"prompt": 1}, {"prompt": "Hi", "stop": [1]}, {"prompt": "Hi", "model": "no/such"}]
    answers += [service.post(path, body, **bearer) for body in bodies for path in ("/generate", CHAT, "/no/such")]
    pages = ("/config", "/metrics", "/health", "/openapi.json", "/v1/models", "/v1/models/no", "/no", "/docs/")
    shown = [
        raw(service, f"GET {page} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CALLERS_KEY}\r\n\r\n".encode())
        for page in pages
    ]
    for key in canaries:
        shown += [raw(service, data) for data in broken_requests(key)]
    service.stop()

    everything = {
        "answers": b"".join(answer.body + str(answer.headers).encode() for answer in answers) + b"".join(shown),
        "log": service.log.read_bytes(),
        "output": service.output().encode(),
    }
    found = {f"{key} in {where}": text.count(key.encode()) for key in canaries for where, text in everything.items()}
    sizes = ", ".join(f"{len(text) / 1000:.0f} kB of {where}" for where, text in everything.items())
    figure(17, f"{len(canaries)} secrets, {len(answers)} requests: {sum(found.values())} times in {sizes}")
    assert TEXT in everything["answers"].decode()
    assert b"[redacted]" in everything["answers"]  # the upstreams did quote them
    assert {name: times for name, times in found.items() if times} == {}


def broken_requests(key: str) -> list[bytes]:
    """Requests whose head gunicorn refuses, with a key in it."""
    return [
        f"GET /config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\x00\r\n\r\n".encode(),
        f"GET /config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n {key}\r\n\r\n".encode(),
        f"GET /config HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {key}\r\n\r\n".encode(),
        f"GET /config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}{'x' * 10_000}\r\n\r\n".encode(),
        f"GET /config HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: x\r\n\r\n".encode(),
    ]


def test_prompts(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """With LOG_PROMPTS=false no prompt and no answer is in the log or the output, whatever becomes of the request."""
    upstreams = far_ends(behind, WAYS)
    service = serve(WEB_CONCURRENCY=1, LOG_PROMPTS="false", **settings_before(upstreams))
    lost = serve(WEB_CONCURRENCY=1, LOG_PROMPTS="false", LOG_FILE="/proc/no/log.jsonl", LOG_REQUIRED="false",
                 **settings_before(upstreams))  # fmt: skip
    answers = list(ask_all(service, WAYS))
    answers += list(ask_all(lost, {"well": well, "cut": cut, "status 400": status(400)}))
    schema = {"type": "object", "properties": {PROMPT: {"enum": [PROMPT]}}}
    odd: list[dict[str, Any]] = [
        {"prompt": PROMPT, PROMPT: 1},
        {"prompt": [PROMPT]},
        {"prompt": PROMPT, "model": "m", "messages": [{"role": PROMPT, "content": PROMPT}]},
        {"prompt": PROMPT, "model": "m", "messages": [{"role": "user", "content": [{"type": PROMPT}]}]},
        {"prompt": PROMPT, "stop": [PROMPT] * 5},
        {"prompt": PROMPT, "response_format": schema, "model": "openai/well"},
        {"prompt": PROMPT, "response_format": {"type": PROMPT}},
        {"prompt": PROMPT * 200_000},
    ]
    for running in (service, lost):
        answers += [running.post(path, body) for body in odd for path in ("/generate", CHAT, "/v1/completions")]
        for body in (json.dumps({"prompt": PROMPT})[:-1], f'{{"{PROMPT}": 1, "{PROMPT}": 2}}', PROMPT):
            head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            raw(running, f"POST /generate HTTP/1.1\r\n{head}\r\n\r\n{body}".encode())
        for stream in (False, True):
            with running.asking(PROMPT, stream=stream):
                pass  # and gone
        running.stop()

    logs = {"log": service.log.read_text(), "output": service.output(), "output without log": lost.output()}
    found = {f"{word} in {where}": text.count(word) for word in (PROMPT, *WORDS) for where, text in logs.items()}
    sizes = ", ".join(f"{len(text) / 1000:.0f} kB of {where}" for where, text in logs.items())
    figure(19, f"{len(answers)} requests: a prompt or answer {sum(found.values())} times in {sizes}")
    assert PROMPT in "".join(answer.body.decode() for answer in answers)  # the upstreams did quote it
    assert '"prompt_sha256"' in logs["log"]
    assert '"prompt_sha256"' in logs["output without log"]
    assert {name: times for name, times in found.items() if times} == {}


@pytest.mark.parametrize("keys", [None, f"alice:{CALLERS_KEY}"], ids=["open", "keys"])
def test_a_start_on_a_public_address(tmp_path: Path, keys: str | None) -> None:
    """Who starts it without keys where others reach it is told so loudly, and nobody else is."""
    settings: dict[str, object] = {"BIND": "0.0.0.0:0", "LLM_BACKEND": "stub"} | ({"API_KEYS": keys} if keys else {})
    service = Service(tmp_path, settings, ())
    try:
        eventually(lambda: "Booting worker" in service.output())
        assert ("EVERYBODY WHO REACHES 0.0.0.0:0 MAY USE THIS SERVICE" in service.output()) == (keys is None)
    finally:
        service.stop()
