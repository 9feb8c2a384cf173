"""What a model's files say of themselves, read without an engine: whether they are whole, and what they will need.

GGUF: ggml's docs/gguf.md. safetensors: the format's README.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
LENGTH = struct.Struct("<Q")
CACHE_BYTES = 2  # of a number in llama.cpp's cache

Facts = dict[str, Any]


def check(files: list[Path]) -> None:
    """Raise LookupError for the first file that has something else in it than weights, or less than its header says."""
    for file in files:
        try:
            found = file.stat()
            is_file = stat.S_ISREG(found.st_mode)  # of a pipe, whoever looks into it takes it away
            flaw = _flaw(file, found.st_size, found.st_mtime_ns) if is_file else None
        except OSError as error:
            flaw = f"can't be read ({os.strerror(error.errno or 0)})"
        if flaw:
            raise LookupError(f"{file.name} {flaw}")


def cache_bytes(file: Path, tokens: int) -> int:
    """Return the most that llama.cpp's cache of so many tokens takes; 0 where the file does not say it."""
    said = _said(file)
    heads = said.get("attention.head_count") or 0
    kept = said.get("attention.head_count_kv", heads)
    layers = sum(kept) if isinstance(kept, tuple) else kept * said.get("block_count", 0)
    width = said.get("embedding_length", 0) // heads if isinstance(heads, int) and heads else 0
    values = sum(said.get(f"attention.{part}_length", width) for part in ("key", "value"))
    return int(layers * values * tokens * CACHE_BYTES)


def pools(file: Path) -> bool:
    """Whether the model has a way of its own to make one vector of a text."""
    return bool(_said(file).get("pooling_type"))


def _said(file: Path) -> Facts:
    """Return what a GGUF file says, by the names without the architecture's before them."""
    facts = _facts(file)[0] if file.suffix == ".gguf" and file.is_file() else {}
    return {name.partition(".")[2]: value for name, value in facts.items()}


@lru_cache(64)
def _flaw(file: Path, size: int, changed: int) -> str | None:
    """Return what is wrong with a file of that size and time, after its name; None: nothing that is seen from here."""
    with file.open("rb") as opened:
        head = opened.read(100).lstrip()
    if not size:
        return "is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the model: git lfs pull fetches that"
    if head.startswith(b"<") and b"\0" not in head:  # the length of a safetensors header may begin so
        return "is a page (HTML), not the model: download the file itself"
    if file.suffix == ".gguf" and not head.startswith(b"GGUF"):
        return "does not begin with GGUF: it is not a model, or broken"
    ends = {".gguf": lambda: _facts(file)[1], ".safetensors": lambda: _safetensors_end(file)}
    try:
        end = ends.get(file.suffix, int)()
    except (struct.error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return "has a broken header: download it again"
    return f"has {size:,} bytes, and must have {end:,} or more: download it again" if end > size else None


def _safetensors_end(file: Path) -> int:
    with file.open("rb") as opened:
        (length,) = LENGTH.unpack(opened.read(LENGTH.size))
        header = json.loads(opened.read(min(length, file.stat().st_size)))
    ends: list[int] = [said["data_offsets"][1] for name, said in header.items() if name != "__metadata__"]
    return LENGTH.size + int(length) + max(ends)


def _facts(file: Path) -> tuple[Facts, int]:
    """Return what a GGUF file says, and the least bytes that it must have: its last tensor begins before their end."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data).facts()


class _Reader:
    """Reads a GGUF file from its beginning. Raises struct.error, ValueError or KeyError where it is none."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 4

    def facts(self) -> tuple[Facts, int]:
        if self._one("I") not in VERSIONS:
            return {}, 0  # the engine may know it
        tensors, count = self._read("QQ")
        facts = {self._string(): self._value(self._one("I")) for _ in range(count)}
        offsets = [self._tensor() for _ in range(tensors)]
        edge = facts.get("general.alignment", 32)
        data = -(-self._at // edge) * edge
        return facts, data + max(offsets) + 1 if offsets else self._at  # a split model's first part may have none

    def _tensor(self) -> int:
        """Read what is said of one; return where it begins."""
        self._string()
        dimensions = self._one("I")
        return int(self._read(f"{dimensions}QIQ")[-1])

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._one(NUMBERS[kind])
        kind, count = self._read("IQ")
        if kind in NUMBERS:
            return self._read(f"{count}{NUMBERS[kind]}")
        for _ in range(count):  # the vocabulary is most of the header
            self._at += LENGTH.size + LENGTH.unpack_from(self._data, self._at)[0]
        return None

    def _string(self) -> str:
        length = self._one("Q")
        return str(self._one(f"{length}s"), "utf-8", "replace")

    def _one(self, form: str) -> Any:
        return self._read(form)[0]

    def _read(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values
