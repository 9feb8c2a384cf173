"""Hugging Face's router (HF_MODE=cloud)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from ...errors import LLMAPIError
from ...runtime.deadline import Deadline
from ...types import EmbeddingRequest, Embeddings
from .openai import OpenAIWire
from .replies import Reply, error_for
from .streams import in_shape, json_object

DEFAULT_MODEL = "openai/gpt-oss-20b"
# What may stand for the provider after a model's name (docs/providers.md, 5).
POLICIES = ("fastest", "cheapest", "preferred")


class HuggingFaceCloud(OpenAIWire):
    name = "huggingface"
    prefix = "hf"

    @property
    def model(self) -> str:
        return self.settings.hf_model or DEFAULT_MODEL

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        if not self.is_official:
            return super().embed(request, deadline)
        self.key()
        return self._inference.embed(request, deadline)

    @cached_property
    def _inference(self) -> _Inference:
        return _Inference(self.settings)

    def means(self, model: str, listed: str) -> bool:
        return super().means(model, listed) or model.partition(":")[0] == listed  # whose provider `:groq` chooses

    def has_model(self, deadline: Deadline) -> bool:
        return self.get("/models", deadline, self._is_in)

    def _is_in(self, body: dict[str, Any]) -> bool:
        name, _, way = self.model.partition(":")
        return any(
            model["id"] == self.model
            or (model["id"] == name and way in {*POLICIES, *(said["provider"] for said in model.get("providers", ()))})
            for model in body["data"]
        )


class _Inference(HuggingFaceCloud):
    """What the router has beside OpenAI's wire: models for search, without a count of tokens."""

    @property
    def base_url(self) -> str:
        return super().base_url.removesuffix("/v1")

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        model = request.model or self.embed_model
        path = f"/hf-inference/models/{quote(model or '')}/pipeline/feature-extraction"
        rows = self.fetch(path, deadline, {"inputs": request.texts})
        return in_shape(_embeddings, json_object(b'{"rows": %s}' % rows), model)

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        return error_for(self.name, reply)


def _embeddings(body: dict[str, Any], model: str | None) -> Embeddings:
    return Embeddings(model=model, vectors=tuple(body["rows"]))
