"""Hugging Face's router (HF_MODE=cloud)."""

from __future__ import annotations

from typing import Any

from ...runtime.deadline import Deadline
from .openai import OpenAIWire

DEFAULT_MODEL = "openai/gpt-oss-20b"
# What may stand for the provider after a model's name (docs/providers.md, 5).
POLICIES = ("fastest", "cheapest", "preferred")


class HuggingFaceCloud(OpenAIWire):
    name = "huggingface"
    prefix = "hf"

    @property
    def model(self) -> str:
        return self.settings.hf_model or DEFAULT_MODEL

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
