"""The far end: Ollama's and OpenAI's wire, as cheap as Python can be, so that what is measured is not this.

A prompt says what it wants: `wait=2` seconds before the answer, `tokens=100` in it, `gap=0.01` seconds between them,
`id=7` to get that back. Run as `python -m bench.provider PORT`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import suppress
from typing import cast

WISH = re.compile(rb"\b(wait|tokens|gap|id)=([0-9.]+)")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream": ?true')
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WORD = "word "
# Chunks that are written before the reader is waited for.
AT_ONCE = 64


class Provider(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    def __init__(self) -> None:
        self.buffer, self.needed = bytearray(), 0
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.may_write.set()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.needed and (end := self.buffer.find(b"\r\n\r\n")) > 0:
            length = LENGTH.search(self.buffer, 0, end)
            self.needed = end + 4 + (int(length[1]) if length else 0)
        if self.needed and len(self.buffer) >= self.needed:
            request, self.buffer, self.needed = self.buffer, bytearray(), 0
            self.answer(request)

    def answer(self, request: bytearray) -> None:
        # not in all of a long prompt: the wish is its beginning
        wish = dict(WISH.findall(request, 0, 500)) if request.find(b"=", 0, 500) > 0 else {}
        wait, tokens = float(wish.get(b"wait", 0)), int(wish.get(b"tokens", 1))
        if STREAM.search(request, max(0, len(request) - 200)):
            ends = OPENAI_STREAM if request.find(b"/chat/completions", 0, 100) > 0 else OLLAMA_STREAM
            self.stream_task = asyncio.ensure_future(self.stream(wait, tokens, float(wish.get(b"gap", 0)), *ends))
            return
        text = wish[b"id"].decode() if b"id" in wish else WORD * tokens
        reply = (_openai if request.find(b"/chat/completions", 0, 100) > 0 else _ollama)(text)
        whole = b"%sContent-Length: %d\r\n\r\n%s" % (HEAD, len(reply), reply)
        if wait:
            asyncio.get_running_loop().call_later(wait, self.transport.write, whole)
        else:
            self.transport.write(whole)

    async def stream(self, wait: float, tokens: int, gap: float, piece: bytes, end: bytes) -> None:
        self.transport.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(wait)
        for number in range(tokens):
            self.transport.write(piece)
            if gap:
                await asyncio.sleep(gap)
            elif number % AT_ONCE == 0:
                await asyncio.sleep(0)
                await self.may_write.wait()
        self.transport.write(end)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _ollama(text: str, done: bool = True) -> bytes:
    ending = {"done_reason": "stop", "prompt_eval_count": 5, "eval_count": 1} if done else {}
    reply = {"model": "m", "message": {"role": "assistant", "content": text}, "done": done, **ending}
    return json.dumps(reply).encode() + b"\n"


def _openai(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    reply = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


def _event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}
    said = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return b"data: %s\n\n" % json.dumps(said).encode()


# A piece of a stream, and what ends it.
OLLAMA_STREAM = _chunk(_ollama(WORD, done=False)), _chunk(_ollama("")) + _chunk(b"")
OPENAI_STREAM = _chunk(_event(WORD)), _chunk(_event("", "stop")) + _chunk(b"data: [DONE]\n\n") + _chunk(b"")


async def serve(port: int) -> None:
    """Answer until killed."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1])))
