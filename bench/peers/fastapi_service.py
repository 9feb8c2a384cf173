"""What one writes first instead: FastAPI before Ollama, one shared httpx client, one log line a request."""

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

OLLAMA = os.environ["OLLAMA_URL"] + "/api/chat"
LOG = Path(os.environ["LOG_FILE"])
MOST = int(os.environ.get("CONNECTIONS", "1000"))


class Wish(BaseModel):
    prompt: str
    stream: bool = False


class Answer(BaseModel):
    response: str


@asynccontextmanager
async def client(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=MOST, max_keepalive_connections=MOST)
    async with httpx.AsyncClient(timeout=120, limits=limits) as app.state.client:
        yield


app = FastAPI(lifespan=client)


@app.post("/generate", response_model=Answer)
async def generate(wish: Wish) -> Answer | StreamingResponse:
    payload = {"model": "m", "messages": [{"role": "user", "content": wish.prompt}], "stream": wish.stream}
    if wish.stream:
        return StreamingResponse(pieces(wish, payload), media_type="application/x-ndjson")
    try:
        reply = await app.state.client.post(OLLAMA, json=payload)
        reply.raise_for_status()
    except httpx.HTTPError as error:
        raise HTTPException(502, str(error)) from error
    text = reply.json()["message"]["content"]
    log(wish.prompt, text)
    return Answer(response=text)


async def pieces(wish: Wish, payload: dict[str, object]) -> AsyncIterator[str]:
    said = []
    async with app.state.client.stream("POST", OLLAMA, json=payload) as reply:
        async for line in reply.aiter_lines():
            said.append(json.loads(line)["message"]["content"])
            yield json.dumps({"response": said[-1]}) + "\n"
    log(wish.prompt, "".join(said))


def log(prompt: str, response: str) -> None:
    with LOG.open("a") as file:
        file.write(json.dumps({"timestamp": time.time(), "prompt": prompt, "response": response}) + "\n")
