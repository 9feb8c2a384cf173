"""Answers from a log: a day's log.jsonl as a demo, or as what tests run against."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import strict_json
from ..config import Settings
from ..deadline import Deadline
from ..errors import NotRecorded, RequestRefused
from ..log_files import parse
from ..types import Chunk, GenerationRequest, Usage
from .base import Backend


class Replay(Backend):
    """Gives the last recorded answer to the same messages and parameters; knows lines as they are appended."""

    name = "replay"
    model = "recorded"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._path = Path(settings.replay_file or settings.log_file)
        self._records: dict[str, Mapping[str, Any]] = {}
        self._read_bytes = 0
        self._reading = threading.Lock()

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        record = self._find(request)
        usage = Usage(record["input_tokens"], record["output_tokens"])
        for piece in re.findall(r"\s*\S+|\s+$", record["response"] or ""):
            yield Chunk(piece, model=record["model"])
        yield Chunk("", record["finish_reason"], usage, record["model"])

    def check(self, deadline: Deadline) -> None:
        if not self._path.is_file():
            raise NotRecorded(f"there is no log {self._path.name} to answer from (REPLAY_FILE)")

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _find(self, request: GenerationRequest) -> Mapping[str, Any]:
        with self._reading:
            self._read_on()
        if record := self._records.get(_key(request)):
            return record
        missing = f"{self._path.name} has no answer to this request (REPLAY_FILE)"
        if self.settings.replay_miss == "fallback":
            raise NotRecorded(missing)
        raise RequestRefused(f"{missing}; REPLAY_MISS=fallback asks the next backend", code=NotRecorded.code)

    def _read_on(self) -> None:
        self.check(Deadline(0))
        with self._path.open("rb") as file:
            if self._path.stat().st_size < self._read_bytes:  # rotated
                self._read_bytes = 0
            file.seek(self._read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read_bytes += len(line)
                self._remember(parse(line))

    def _remember(self, record: Mapping[str, Any] | None) -> None:
        # what only a fallback said is no answer of the backend's; what was asked for because it was missing here is
        if record and record["status"] == "ok" and record["fallback_reason"] in (None, NotRecorded.code):
            self._records[_key_of(record)] = record


def _key(request: GenerationRequest) -> str:
    return _joined([(m.role, m.content) for m in request.messages], request.parameters)


def _key_of(record: Mapping[str, Any]) -> str:
    """As `_key`, of a line; one whose texts are cut or hidden has the key of no request."""
    messages = [(m["role"], m.get("content")) for m in record.get("messages") or ()]
    if "messages" not in record:
        system = [("system", record["system"])] if record.get("system") else []
        messages = [*system, ("user", record.get("prompt"))]
    return _joined(messages, record["parameters"])


def _joined(messages: list[tuple[str, Any]], parameters: Mapping[str, Any]) -> str:
    return hashlib.sha256(strict_json.dumps([messages, sorted(parameters.items())]).encode()).hexdigest()
