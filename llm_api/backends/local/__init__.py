"""Models on this machine (HF_MODE=local)."""

from ...settings import Settings
from ..base import Backend
from .model import is_gguf


def for_settings(settings: Settings) -> Backend:
    """Return the backend for HF_MODEL."""
    if is_gguf(settings.hf_model):
        from .backend import HuggingFaceLocal

        return HuggingFaceLocal(settings)
    from .transformers import TransformersLocal

    return TransformersLocal(settings)
