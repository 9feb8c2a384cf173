"""The four far ends as the tests speak of them: addresses, keys, answers, streams; and one on a real socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from asking import Log, Serve, ask, error_of, outcomes
from responses import RequestsMock
from werkzeug.test import TestResponse

# A pause of a millisecond; Claude takes a 429 without `retry-after` for a spent budget.
AT_ONCE = {"retry-after": "1", "retry-after-ms": "1"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
# An answer that fits it.
CITY = '{"city": "Oslo"}'


class FarEnd(RequestsMock):
    """The library's mock, where a call to a provider leaves the program."""

    def __init__(self, **options: Any) -> None:
        super().__init__(target="llm_api.backends.http.connections.Adapter.send", **options)


def event(data: Mapping[str, Any] | str, name: str | None = None) -> bytes:
    """Return one server-sent event; text is not escaped to ASCII, as providers don't."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def openai_answer(text: str | None, **changes: Any) -> dict[str, Any]:
    """Return docs/providers.md, 3.2's answer; `changes` are to its choice."""
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"} | changes
    usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
    return {"id": "c1", "object": "chat.completion", "model": "far-model-1", "choices": [choice], "usage": usage}


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Return one `chat.completion.chunk` as an event."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "model": "far-model-1", "choices": [choice], "usage": None} | more)


def openai_usage() -> bytes:
    """Return the chunk with the usage and no choices."""
    usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
    return event({"object": "chat.completion.chunk", "model": "far-model-1", "choices": [], "usage": usage})


def openai_stream(*texts: str, finish: str = "stop") -> bytes:
    """Return a whole stream of docs/providers.md, 3.2."""
    return b"".join([delta(""), *map(delta, texts), delta(None, finish), openai_usage(), event("[DONE]")])


def openai_error(
    code: str | None, message: str = "no", param: str | None = None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    """Return OpenAI's error envelope."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def claude_answer(text: str, **changes: Any) -> dict[str, Any]:
    """Return docs/providers.md, 4.2's answer with `changes`."""
    usage = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 2}
    content = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": text}]
    head = {"id": "msg_01A", "type": "message", "role": "assistant", "model": "far-model-1"}
    return {**head, "content": content, "stop_reason": "end_turn", "usage": usage} | changes


def claude_event(kind: str, **fields: Any) -> bytes:
    """Return one of Anthropic's events, which are named twice."""
    return event({"type": kind, **fields}, kind)


def claude_start() -> bytes:
    """Return the beginning of a stream: its first event, a ping and an open text block."""
    message = {"id": "msg_01A", "model": "far-model-1", "usage": {"input_tokens": 12, "output_tokens": 1}}
    block = {"type": "text", "text": ""}
    start = claude_event("message_start", message=message)
    return start + claude_event("content_block_start", index=0, content_block=block) + claude_event("ping")


def claude_text(text: str) -> bytes:
    """Return a piece of text."""
    return claude_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def claude_end(reason: str | None = "end_turn", output_tokens: int = 2) -> bytes:
    """Return the end of a stream."""
    end = {"stop_reason": reason, "stop_sequence": None}
    said = claude_event("message_delta", delta=end, usage={"output_tokens": output_tokens})
    return claude_event("content_block_stop", index=0) + said + claude_event("message_stop")


def claude_stream(*texts: str) -> bytes:
    """Return a whole stream of docs/providers.md, 4.4."""
    return claude_start() + b"".join(map(claude_text, texts)) + claude_end()


def claude_error(kind: str, message: str = "no", **details: Any) -> dict[str, Any]:
    """Return Anthropic's error envelope."""
    error = {"type": kind, "message": message} | ({"details": details} if details else {})
    return {"type": "error", "error": error, "request_id": "req_1"}


def ollama_answer(text: str | None, **changes: Any) -> dict[str, Any]:
    """Return docs/providers.md, 2.2's answer with `changes`."""
    message = {"role": "assistant", "content": text, "thinking": "hm"}
    end = {"done": True, "done_reason": "stop", "total_duration": 1, "prompt_eval_count": 12, "eval_count": 2}
    return {"model": "far-model-1", "created_at": "2026-11-23T10:00:00.1Z", "message": message} | end | changes


def ollama_line(text: str, **changes: Any) -> bytes:
    """Return a line of a stream, not its last."""
    body = {"model": "far-model-1", "message": {"role": "assistant", "content": text}, "done": False} | changes
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def ollama_stream(*texts: str) -> bytes:
    """Return a whole stream of docs/providers.md, 2.2."""
    return b"".join(map(ollama_line, texts)) + json.dumps(ollama_answer("")).encode() + b"\n"


@dataclass(frozen=True)
class Provider:
    """One provider. `answer` and `stream` give a text whole and in pieces, `cut` a stream that lacks its end.

    `checked` is how and where it is asked whether it can serve.
    """

    name: str
    base: str
    base_setting: str
    path: str
    models: str
    checked: tuple[str, str]
    key: str | None
    key_setting: str | None
    answer: Callable[[str], dict[str, Any]]
    stream: Callable[..., bytes]
    cut: Callable[..., bytes]
    broken: bytes

    @property
    def url(self) -> str:
        """Where prompts go."""
        return self.base + self.path

    @property
    def models_url(self) -> str:
        """Where the models are listed, without a query."""
        return self.base + self.models

    @property
    def check(self) -> tuple[str, str]:
        """How and where a check asks, without a query."""
        method, path = self.checked
        return method, self.base + path

    @property
    def settings(self) -> dict[str, Any]:
        """What chooses the provider and gives its key."""
        chosen: dict[str, Any] = {"llm_backend": self.name, "hf_mode": "cloud"}
        return chosen | ({self.key_setting: self.key} if self.key_setting else {})

    def at(self, address: str) -> dict[str, Any]:
        """Return the settings for a far end at another address."""
        return self.settings | {self.base_setting: address}

    def __str__(self) -> str:
        return self.name


OLLAMA = Provider(
    "ollama",
    "http://localhost:11434",
    "ollama_url",
    "/api/chat",
    "/api/tags",
    ("POST", "/api/show"),
    None,
    None,
    ollama_answer,
    ollama_stream,
    lambda *texts: b"".join(map(ollama_line, texts)),
    b'{"error":"an error was encountered while running the model"}\n',
)
OPENAI = Provider(
    "openai",
    "https://api.openai.com/v1",
    "openai_base_url",
    "/chat/completions",
    "/models",
    ("GET", "/models"),
    "test-key-of-openai-0123456789",
    "openai_api_key",
    openai_answer,
    openai_stream,
    lambda *texts: b"".join(map(delta, texts)),
    event({"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}),
)
CLAUDE = Provider(
    "claude",
    "https://api.anthropic.com",
    "claude_base_url",
    "/v1/messages",
    "/v1/models",
    ("GET", "/v1/models"),
    "test-key-of-claude-0123456789",
    "claude_api_key",
    claude_answer,
    claude_stream,
    lambda *texts: claude_start() + b"".join(map(claude_text, texts)),
    claude_event("error", error={"type": "api_error", "message": "Internal server error"}, request_id="req_1"),
)
HUGGING_FACE = Provider(
    "huggingface",
    "https://router.huggingface.co/v1",
    "hf_base_url",
    "/chat/completions",
    "/models",
    ("GET", "/models"),
    "test-key-of-hf-0123456789",
    "hf_api_key",
    openai_answer,
    openai_stream,
    lambda *texts: b"".join(map(delta, texts)),
    event({"error": "Request failed during generation", "error_type": "generation"}),
)
PROVIDERS = (OLLAMA, OPENAI, CLAUDE, HUGGING_FACE)


class Fault(NamedTuple):
    """An error reply of a provider, and the status and code that our client must see."""

    status: int
    body: dict[str, Any] | str
    ours: int
    code: str
    falls_back: bool = True
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed

    def reply(self) -> dict[str, Any]:
        """Return the keywords for a mock."""
        body = {"json": self.body} if isinstance(self.body, dict) else {"body": self.body}
        return body | {"status": self.status, "headers": self.headers}


def sent(far_end: FarEnd, number: int = -1) -> dict[str, Any]:
    """Return the JSON body of a request that a far end got, the last one by default."""
    body: dict[str, Any] = json.loads(far_end.calls[number].request.body)
    return body


def check_error(reply: TestResponse, line: dict[str, Any], fault: Fault, backend: str) -> None:
    """The client and the log have the fault's status and code, and no backend is said to have answered."""
    assert (reply.status_code, error_of(reply)["code"]) == (fault.ours, fault.code)
    assert "X-LLM-Fallback" not in reply.headers
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", fault.ours, fault.code)
    assert (line["backend"], line["requested_backend"], line["fallback"]) == (None, backend, False)
    assert outcomes(line) == [(backend, fault.code)]


def check_fallback(reply: TestResponse, line: dict[str, Any], reason: str, backend: str) -> None:
    """The stub answered, and the header and the log say why."""
    assert reply.status_code == 200, reply.json
    assert reply.json["response"].startswith("[stub]")
    assert (reply.headers["X-LLM-Fallback"], reply.headers["X-LLM-Backend"]) == (reason, "stub")
    assert (line["status"], line["http_status"], line["error"]) == ("ok", 200, None)
    assert (line["backend"], line["requested_backend"]) == ("stub", backend)
    assert (line["fallback"], line["fallback_reason"]) == (True, reason)
    assert outcomes(line) == [(backend, reason), ("stub", "ok")]


def check_fault(fault: Fault, provider: Provider, make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """Without a fallback the client sees the error, streamed or not; with one it sees the stub, or still the error."""
    far_end.post(provider.url, **fault.reply())
    alone, backed = make_client(**provider.settings), make_client(**provider.settings, llm_fallback=("stub",))
    check_error(ask(alone), log_lines()[-1], fault, provider.name)
    check_error(ask(alone, stream=True), log_lines()[-1], fault, provider.name)
    if fault.falls_back:
        check_fallback(ask(backed), log_lines()[-1], fault.code, provider.name)
    else:
        check_error(ask(backed), log_lines()[-1], fault, provider.name)
    check_error(ask(backed, fallback=False), log_lines()[-1], fault, provider.name)
    assert len(far_end.calls) == 4


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP reply as it goes over the wire."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def http_chunked(pieces: list[bytes], *, whole: bool = True) -> bytes:
    """Return a chunked HTTP reply; not `whole`: it breaks off before its last chunk."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    end = b"0\r\n\r\n" if whole else b""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + end


class Socket:
    """A far end on a real socket: gives every connection the same reply (None: none at all) and notes what it got."""

    def __init__(self, reply: bytes | None) -> None:
        self.requests: list[bytes] = []
        self.delivered = 0
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Socket:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        request = _read_request(connection)
        self.requests.append(request)
        try:
            if self._reply is None:
                connection.recv(1)  # until the client gives up
            for start in range(0, len(self._reply or b""), 65_536):
                part = (self._reply or b"")[start : start + 65_536]
                connection.sendall(part)
                self.delivered += len(part)
        except OSError:
            return


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while not _is_whole(request) and (data := connection.recv(65_536)):
        request += data
    return request


def _is_whole(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(found) and len(body) >= int(length[0] if length else 0)
