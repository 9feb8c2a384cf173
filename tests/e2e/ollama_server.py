"""Ollama's wire with a real model behind it: ollama_server.py MODEL prints its address, and serves it as `smollm2`.

Ollama itself is in no package registry. This speaks as much of its API as a chat needs, and the official client is
held against it in test_ollama.py.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import xllamacpp

NAME = "smollm2:latest"
OPTIONS = {"num_predict": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed", "stop": "stop"}
TAG = {
    "name": NAME,
    "model": NAME,
    "modified_at": "2026-11-23T10:00:00Z",
    "size": 96_576_768,
    "digest": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "details": {"format": "gguf", "family": "llama", "parameter_size": "135M", "quantization_level": "Q4_1"},
    "capabilities": ["completion"],
}


class Refused(Exception):
    """`args` are the status and the message."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    engine: xllamacpp.Server

    def do_GET(self) -> None:
        answers = {"/api/version": {"version": "0.34.2"}, "/api/tags": {"models": [TAG]}}
        if self.path in answers:
            self._answer(200, answers[self.path])
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if self.path == "/api/show":
                return self._answer(200, TAG | {"model": _known(body)})
            if self.path != "/api/chat":
                raise Refused(404, "not found")
            self._chat(body, _translated(body))
        except Refused as refused:
            status, message = refused.args
            self._answer(status, {"error": message})

    def log_message(self, *args: object) -> None:
        pass

    def _chat(self, body: dict[str, Any], wanted: dict[str, Any]) -> None:
        started = time.monotonic_ns()
        streams = body.get("stream", True)
        said: list[str] = []
        facts: dict[str, Any] = {}
        begun = False

        def take(event: dict[str, Any]) -> bool:
            nonlocal begun
            facts.update({name: event[name] for name in ("usage", "error") if event.get(name)})
            for choice in event.get("choices") or []:
                facts["finish"] = choice["finish_reason"] or facts.get("finish")
                if text := choice["delta"].get("content"):
                    said.append(text)
                    if streams:
                        begun = begun or self._begin_stream()
                        return not self._line(_message(body, text, done=False))
            return False

        self.engine.handle_chat_completions(wanted, take)
        if "error" in facts:
            raise Refused(400, facts["error"]["message"])
        usage = facts["usage"]
        last = _message(body, "" if streams else "".join(said), done=True) | {
            "done_reason": facts["finish"],
            "total_duration": time.monotonic_ns() - started,
            "prompt_eval_count": usage["prompt_tokens"],
            "eval_count": usage["completion_tokens"],
        }
        if not streams:
            return self._answer(200, last)
        if not begun:
            self._begin_stream()
        self._line(last)
        self.wfile.write(b"0\r\n\r\n")

    def _begin_stream(self) -> bool:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        return True

    def _line(self, value: object) -> bool:
        """Return whether somebody takes it; as in Ollama, a client that leaves ends the generation."""
        line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        except OSError:
            self.close_connection = True
            return False
        return True

    def _answer(self, status: int, value: object) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _known(body: dict[str, Any]) -> str:
    model = body.get("model")
    if not model:
        raise Refused(400, "model is required")
    if model not in (NAME, NAME.removesuffix(":latest")):
        raise Refused(404, f"model '{model}' not found")
    return str(model)


def _translated(body: dict[str, Any]) -> dict[str, Any]:
    _known(body)
    options = body.get("options") or {}
    if not isinstance(options.get("stop", []), list):
        raise Refused(500, 'option "stop" must be of type array')
    wanted = {theirs: options[ours] for ours, theirs in OPTIONS.items() if ours in options}
    if wanted_format := body.get("format"):
        schema = {"json_schema": {"name": "answer", "schema": wanted_format}}
        json_schema = {"type": "json_schema", **schema}
        wanted["response_format"] = {"type": "json_object"} if wanted_format == "json" else json_schema
    return wanted | {"messages": body["messages"], "stream": True, "stream_options": {"include_usage": True}}


def _message(body: dict[str, Any], text: str, *, done: bool) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": body["model"], "created_at": datetime.now(UTC).isoformat(), "message": message, "done": done}


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = 2 * 8192
    params.n_parallel = 2
    params.kv_unified = False  # with it an answer depends on those beside it
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.verbosity = -1
    Handler.engine = xllamacpp.Server(params)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
