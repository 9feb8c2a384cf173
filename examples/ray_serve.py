"""A cluster of models: in each replica of Ray Serve runs a llama.cpp server of its own, and its answers are passed on.

pip install "ray[serve]" xllamacpp
ray start --head                      # on one machine
ray start --address=HEAD:6379         # on each of the others, which have the model at the same path
MODEL=/models/model.gguf serve run ray_serve:app

LLM_BACKEND=openai OPENAI_BASE_URL=http://HEAD:8000/v1 OPENAI_MODEL=model.gguf
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import xllamacpp
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

SLOTS = 2


@serve.deployment(
    ray_actor_options={"num_cpus": 1},
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": SLOTS},
    max_ongoing_requests=4 * SLOTS,  # what has no slot waits in the engine
    max_queued_requests=64,
    health_check_period_s=2,
    health_check_timeout_s=5,
)
class Engine:
    """One model server; whoever leaves a stream frees the slot."""

    async def __init__(self, model: str) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = model
        params.model_alias = {Path(model).name}
        params.n_ctx = SLOTS * 8192
        params.n_parallel = SLOTS
        params.cpuparams.n_threads = 1
        params.port = 0
        self.server = xllamacpp.Server(params)
        self.http = aiohttp.ClientSession(self.server.listening_address, timeout=aiohttp.ClientTimeout(total=None))

    async def check_health(self) -> None:
        async with self.http.get("/health") as answer:
            answer.raise_for_status()

    async def __call__(self, request: Request) -> StreamingResponse:
        headers = {"Content-Type": request.headers.get("Content-Type", "")}
        answer = await self.http.request(request.method, request.url.path, data=await request.body(), headers=headers)
        return StreamingResponse(pieces(answer), answer.status, media_type=answer.headers["Content-Type"])


async def pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with answer:  # left early, it closes the connection, by which the engine knows
        async for piece in answer.content.iter_any():
            yield piece


app = Engine.bind(os.environ["MODEL"])
