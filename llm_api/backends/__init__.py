"""The backends by name. Only these modules touch `requests`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import ConfigError
from ..rules import PLUGINS
from ..settings import Settings
from .base import Backend

__all__ = ["Backend", "make_backend"]

# Imported when asked for: `requests` alone takes a quarter of the time that importing the package may take.
_CLASSES = {
    "ollama": "http.ollama:Ollama",
    "huggingface local": "local.backend:HuggingFaceLocal",
    "huggingface cloud": "http.huggingface:HuggingFaceCloud",
    "openai": "http.openai:OpenAI",
    "claude": "http.anthropic:Claude",
    "stub": "stub:Stub",
    "replay": "replay:Replay",
}


def make_backend(name: str, settings: Settings) -> Backend:
    """Return the backend `name`: one of config.BACKENDS, a plugin's entry point, or `module:Class`.

    It opens and loads nothing yet. Raises ConfigError where a plugin can't be imported or is not a Backend.
    """
    ours = _CLASSES.get(f"{name} {settings.hf_mode}" if name == "huggingface" else name)
    make: Callable[[Settings], Backend] = _imported(f"{__name__}.{ours}") if ours else _plugin(name)
    return make(settings)


def _plugin(name: str) -> type[Backend]:
    points = entry_points(group=PLUGINS, name=name)
    if ":" not in name and len(points) != 1:
        raise ConfigError(f"{len(points)} installed packages have a backend {name}")
    try:
        kind = _imported(name) if ":" in name else next(iter(points)).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the backend {name} can't be imported: {error}") from error
    if not isinstance(kind, type) or not issubclass(kind, Backend):
        raise ConfigError(f"{name} is not a class derived from llm_api.backends.Backend")
    return kind


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
