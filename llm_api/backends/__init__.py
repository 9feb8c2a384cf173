"""The backends by name. Only these modules touch `requests`."""

from __future__ import annotations

from ..config import Settings
from .base import Backend
from .claude import Claude
from .huggingface import HuggingFaceCloud
from .local import HuggingFaceLocal
from .ollama import Ollama
from .openai import OpenAI
from .stub import Stub

__all__ = ["Backend", "make_backend"]

_CLASSES: dict[str, type[Backend]] = {"ollama": Ollama, "openai": OpenAI, "claude": Claude, "stub": Stub}
_HUGGING_FACE: dict[str, type[Backend]] = {"local": HuggingFaceLocal, "cloud": HuggingFaceCloud}


def make_backend(name: str, settings: Settings) -> Backend:
    """Return the backend `name`, one of config.BACKENDS; it opens and loads nothing yet."""
    kind = _HUGGING_FACE[settings.hf_mode] if name == "huggingface" else _CLASSES[name]
    return kind(settings)
