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
        answer = _Answer(self._model, prompt, wish, tuple(wanted.get("stop", ())), self._numbers)
        async with aclosing(answer.pieces()) as pieces:
            if wanted.get("stream"):
                await self._streamed(answer, pieces, writer)
                return
            text = "".join([piece async for piece in pieces])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": answer.finish}
        await _send(writer, 200, {"model": self._name, "choices": [choice], "usage": answer.usage})

    async def _streamed(self, answer: _Answer, pieces: AsyncIterator[str], writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200))
        async for text in pieces:
            writer.write(_event({"choices": [{"index": 0, "delta": {"content": text}}]}))
            await writer.drain()
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]}
        writer.write(_event({"model": self._name, **end}) + _event({"choices": [], "usage": answer.usage}))
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()

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


class _Answer:
    """One answer as text; `finish` and `usage` are right when it has ended."""

    def __init__(
        self, model: TorchModel, prompt: list[int], wish: Wish, stop: tuple[str, ...], numbers: dict[str, float]
    ) -> None:
        self._model, self._prompt, self._wish = model, prompt, wish
        self._stops = Stops(stop)
        self._numbers = numbers
        self._count, self._since = 0, time.monotonic()
        self.finish = "length"

    @property
    def usage(self) -> dict[str, int]:
        """The tokens, in OpenAI's words."""
        return {"prompt_tokens": len(self._prompt), "completion_tokens": self._count}

    async def pieces(self) -> AsyncGenerator[str]:
        """Yield the text up to the first stop text."""
        text = self._model.text()
        self._numbers["requests_processing"] += 1
        try:
            async with aclosing(self._model.answer(self._prompt, self._wish)) as tokens:
                async for some in tokens:
                    self._counted(some)
                    piece, is_over = self._stops.cut("".join(map(text, some)), is_last=False)
                    if piece:
                        yield piece
                    if is_over or self._model.is_end(some[-1]):
                        self.finish = "stop"
                    if is_over:
                        return
        finally:
            self._numbers["requests_processing"] -= 1
        if piece := self._stops.cut("", is_last=True)[0]:
            yield piece

    def _counted(self, tokens: list[int]) -> None:
        """Count the tokens and their time, under the names that llama.cpp's server has for them."""
        now = time.monotonic()
        kind = "tokens_predicted" if self._count else "prompt"
        self._numbers[f"{kind}_seconds_total"] += now - self._since
        self._numbers["prompt_tokens_total"] += 0 if self._count else len(self._prompt)
        self._numbers["tokens_predicted_total"] += len(tokens)
        self._count += len(tokens)
        self._since = now


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


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"
