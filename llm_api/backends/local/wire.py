"""OpenAI's wire over a Unix socket, in front of a TorchModel, in the engine's process.

Only this service's workers ask here, in the words of http/openai.py, one request a connection; llama.cpp's server has
the same words for a request that is too long. A connection that is closed stops its answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

from jinja2 import TemplateError

from ...types import Chunk, Usage
from ..base import Stops
from .torch_model import EngineBroken, TorchModel, Wish

DIED = 1


class _Refused(Exception):
    """A request that is answered with status 400; the argument is the error object."""


class Server:
    """Serves the model at the socket `asked["http"]`."""

    def __init__(self, asked: Mapping[str, Any], key: str) -> None:
        self._model = TorchModel(
            asked["model"], context=asked["context"], slots=asked["slots"], threads=asked["threads"]
        )
        self._path, self._name, self._key = asked["http"], asked["name"], f"authorization: bearer {key}"
        self._numbers = defaultdict[str, float](float)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve for ever; `ready` is called when it does."""
        await self._model.begin()
        server = await asyncio.start_unix_server(self._connected, self._path)
        ready()
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            body = await reader.readexactly(_length(head))
            work = asyncio.ensure_future(self._answered(head, body, writer))
            left = asyncio.ensure_future(reader.read())
            await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
            for task in (work, left):
                task.cancel()
            await asyncio.wait([work, left])
            if not work.cancelled():
                work.result()
        writer.close()

    async def _answered(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if self._key not in head.split("\r\n"):
            await _send(writer, 401, {"error": {"message": "wrong key"}})
        elif head.startswith("get /metrics "):
            lines = [f"llamacpp:{name} {value}\n" for name, value in self._numbers.items()]
            await _write(writer, 200, "".join(lines).encode())
        elif head.startswith("get "):
            await _send(writer, 200, {"status": "ok"})
        else:
            try:
                await self._generated(json.loads(body), writer)
            except _Refused as refused:
                await _send(writer, 400, {"error": refused.args[0]})
            except EngineBroken as broken:
                sys.stderr.write(f"{broken}\n")
                sys.stderr.flush()
                os._exit(DIED)

    async def _generated(self, wanted: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        prompt, wish = self._read(wanted)
        async with aclosing(self._answer(prompt, wish, tuple(wanted.get("stop", ())))) as chunks:
            if wanted.get("stream"):
                await self._streamed(chunks, writer)
                return
            found = [chunk async for chunk in chunks]
        message = {"role": "assistant", "content": "".join(chunk.text for chunk in found)}
        choice = {"index": 0, "message": message, "finish_reason": found[-1].finish_reason}
        await _send(writer, 200, {"model": self._name, "choices": [choice], "usage": _usage(found[-1])})

    async def _streamed(self, chunks: AsyncIterator[Chunk], writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200))
        async for chunk in chunks:
            choice = {"index": 0, "delta": {"content": chunk.text}, "finish_reason": chunk.finish_reason}
            end = {"model": self._name, "usage": _usage(chunk)} if chunk.finish_reason else {}
            writer.write(b"data: " + json.dumps({"choices": [choice]} | end).encode() + b"\n\n")
            await writer.drain()
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    async def _answer(self, prompt: list[int], wish: Wish, stop: tuple[str, ...]) -> AsyncGenerator[Chunk]:
        """Yield the answer's text up to the first stop text, at last its end."""
        text, stops, count, finish, is_over = self._model.text(), Stops(stop), 0, "length", False
        self._numbers["requests_processing"] += 1
        try:
            async with aclosing(self._counted(prompt, wish)) as tokens:
                async for some in tokens:
                    count += len(some)
                    piece, is_over = stops.cut("".join(map(text, some)), is_last=False)
                    if is_over or self._model.is_end(some[-1]):
                        finish = "stop"
                    if piece:
                        yield Chunk(piece)
                    if is_over:
                        break
        finally:
            self._numbers["requests_processing"] -= 1
        rest = "" if is_over else stops.cut("", is_last=True)[0]
        yield Chunk(rest, finish, Usage(len(prompt), count))

    async def _counted(self, prompt: list[int], wish: Wish) -> AsyncGenerator[list[int]]:
        """Yield the answer's tokens; count them and their time, by the names that llama.cpp's server has for them."""
        since, kind = time.monotonic(), "prompt"
        async with aclosing(self._model.answer(prompt, wish)) as tokens:
            async for some in tokens:
                now = time.monotonic()
                self._numbers[f"{kind}_seconds_total"] += now - since
                self._numbers["prompt_tokens_total"] += len(prompt) if kind == "prompt" else 0
                self._numbers["tokens_predicted_total"] += len(some)
                since, kind = now, "tokens_predicted"
                yield some

    def _read(self, wanted: Mapping[str, Any]) -> tuple[list[int], Wish]:
        """Return the prompt's tokens and what is wanted. Raises _Refused."""
        if "response_format" in wanted:
            raise _Refused({"message": "models in transformers have no JSON mode", "code": "unsupported_parameter"})
        try:
            prompt = self._model.prompt(wanted["messages"])
        except TemplateError as error:
            raise _Refused({"message": f"the model's template refuses these messages: {error}"}) from None
        room = self._model.context - len(prompt)
        if room < 1:
            raise _Refused({"n_prompt_tokens": len(prompt) + 1, "n_ctx": self._model.context})
        said = {name: wanted.get(name) for name in ("temperature", "top_p", "seed")}
        return prompt, Wish(min(wanted["max_tokens"], room), **said)


def _usage(last: Chunk) -> dict[str, int | None]:
    return {"prompt_tokens": last.usage.input_tokens, "completion_tokens": last.usage.output_tokens}


def _length(head: str) -> int:
    lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
    return int(lengths[0]) if lengths else 0


def _head(status: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} -\r\nConnection: close\r\n{more}\r\n".encode()


async def _send(writer: asyncio.StreamWriter, status: int, body: Mapping[str, Any]) -> None:
    await _write(writer, status, json.dumps(body).encode())


async def _write(writer: asyncio.StreamWriter, status: int, data: bytes) -> None:
    writer.write(_head(status, f"Content-Length: {len(data)}\r\n") + data)
    await writer.drain()
