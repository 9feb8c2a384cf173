"""The backends by name. Only these modules touch `requests`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..config import PLUGINS, Settings
from ..errors import ConfigError
from .base import Backend
from .claude import Claude
from .huggingface import HuggingFaceCloud
from .local import HuggingFaceLocal
from .ollama import Ollama
from .openai import OpenAI
from .replay import Replay
from .stub import Stub

__all__ = ["Backend", "make_backend"]

_CLASSES: dict[str, type[Backend]] = {kind.name: kind for kind in (Ollama, OpenAI, Claude, Stub, Replay)}
_HUGGING_FACE: dict[str, type[Backend]] = {"local": HuggingFaceLocal, "cloud": HuggingFaceCloud}


def make_backend(name: str, settings: Settings) -> Backend:
    """Return the backend `name`: one of config.BACKENDS, a plugin's entry point, or `module:Class`.

    It opens and loads nothing yet. Raises ConfigError where a plugin can't be imported or is no Backend.
    """
    kind = _HUGGING_FACE[settings.hf_mode] if name == "huggingface" else _CLASSES.get(name) or _plugin(name)
    return kind(settings)


def _plugin(name: str) -> type[Backend]:
    try:
        kind = _imported(name) if ":" in name else next(iter(entry_points(group=PLUGINS, name=name))).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the backend {name} can't be imported: {error}") from error
    if not isinstance(kind, type) or not issubclass(kind, Backend):
        raise ConfigError(f"{name} is no class derived from llm_api.backends.Backend")
    return kind


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
