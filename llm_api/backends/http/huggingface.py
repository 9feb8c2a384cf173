"""Hugging Face's router (HF_MODE=cloud)."""

from __future__ import annotations

from collections.abc import Mapping
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
TOOLS = frozenset({"tools", "tool_choice"})


class HuggingFaceCloud(OpenAIWire):
    name = "huggingface"
    prefix = "hf"
    serves = OpenAIWire.serves - TOOLS

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

    def abilities(self, model: str | None, deadline: Deadline) -> frozenset[str]:
        name, _, way = (model or self.model).partition(":")
        ways = self.shown_at("/models", deadline, _with_tools).get(name, {})
        can = [said for provider, said in ways.items() if way in ("", *POLICIES, provider)]
        return self.serves | (TOOLS if any(can) or not can else set())

    def has_model(self, deadline: Deadline) -> bool:
        return self.get("/models", deadline, self._is_in)

    def _is_in(self, body: dict[str, Any]) -> bool:
        name, _, way = self.model.partition(":")
        return any(
            model["id"] == self.model
            or (model["id"] == name and way in {*POLICIES, *(said["provider"] for said in model.get("providers", ()))})
            for model in body["data"]
        )


def _with_tools(body: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """Return for each model its providers, and whether they take tools: all that don't say no."""
    return {
        model["id"]: {one["provider"]: one.get("supports_tools") is not False for one in model.get("providers") or ()}
        for model in body.get("data", ())
    }
