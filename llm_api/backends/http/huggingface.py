"""Hugging Face's router (HF_MODE=cloud)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import LLMAPIError, ModelNotFound
from ...runtime.deadline import Deadline
from .openai import OpenAIWire
from .replies import Reply, error_for

DEFAULT_MODEL = "openai/gpt-oss-20b"


class HuggingFaceCloud(OpenAIWire):
    name = "huggingface"
    prefix = "hf"

    @property
    def model(self) -> str:
        return self.settings.hf_model or DEFAULT_MODEL

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        if reply.status == 400 and reply.code == "model_not_supported":
            return ModelNotFound("no provider of Hugging Face serves this model", param="model", detail=reply.detail)
        return error_for(self.name, reply)
