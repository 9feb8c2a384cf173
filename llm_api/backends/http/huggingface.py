"""Hugging Face's router (HF_MODE=cloud)."""

from __future__ import annotations

from .openai import OpenAIWire

DEFAULT_MODEL = "openai/gpt-oss-20b"


class HuggingFaceCloud(OpenAIWire):
    name = "huggingface"
    prefix = "hf"

    @property
    def model(self) -> str:
        return self.settings.hf_model or DEFAULT_MODEL

    def means(self, model: str, listed: str) -> bool:
        return super().means(model, listed) or model.partition(":")[0] == listed  # whose provider `:groq` chooses
