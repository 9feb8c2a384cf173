"""Hugging Face's router (HF_MODE=cloud)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from ...runtime.deadline import Deadline
from ...types import EmbeddingRequest, Embeddings
from .openai import OpenAIWire
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
        """Ask the router's models for search, which are beside OpenAI's wire there and count no tokens."""
        if not self.is_official:
            return super().embed(request, deadline)
        self.key()
        model = request.model or self.embed_model
        path = f"/hf-inference/models/{quote(model or '')}/pipeline/feature-extraction"
        rows = self._above.fetch(path, deadline, {"inputs": request.texts})
        body = json_object(b'{"rows": %s}' % rows)
        return in_shape(lambda: Embeddings(model=model, vectors=tuple(body["rows"])))

    @cached_property
    def _above(self) -> HuggingFaceCloud:
        return HuggingFaceCloud(replace(self.settings, hf_base_url=self.base_url.removesuffix("/v1")))

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
