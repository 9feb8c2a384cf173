"""Answers from a log: a day's log.jsonl as a demo, or as what tests run against."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import strict_json
from ..errors import NotRecorded, RequestRefused
from ..log.files import parse
from ..log.record import Record, TextPolicy
from ..runtime.deadline import Deadline
from ..settings import Settings
from ..types import NEEDS, CallPiece, Chunk, GenerationRequest, Reasoning, Usage
from .base import Backend

WHOLE = TextPolicy(True, sys.maxsize)
# A line of the first schema may lack its reason.
ENDS = {None: "stop"} | {reason: reason for reason in ("stop", "length", "tool_calls", "content_filter")}

# The text, with what was thought before it, and what ends it: calls, and why.
Answered = tuple[str, Chunk, Chunk]


class Replay(Backend):
    """Gives the last recorded answer to the same messages and parameters; knows lines as they are appended."""

    name = "replay"
    model = "recorded"
    serves = frozenset(NEEDS) - {"documents"}  # no line says which they were

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._path = Path(settings.replay_file or settings.log_file)
        self._answers: dict[str, Answered] = {}
        self._read = (0, 0)  # which file, and how many of its bytes
        self._reading = threading.Lock()

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        text, begin, end = self._find(request)
        if begin.reasoning:
            yield begin
        for piece in re.findall(r"\s*\S+|\s+$", text):
            yield Chunk(piece, model=end.model)
        yield end

    def check(self, deadline: Deadline) -> None:
        if self._path.exists() and not self._path.is_file():  # a pipe would hold up the request
            raise NotRecorded(f"{self._path.name} can't be replayed: it is no file (REPLAY_FILE)")
        try:
            self._path.open("rb").close()
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise NotRecorded(f"{self._path.name} can't be replayed: {why} (REPLAY_FILE)") from None

    def has_model(self, deadline: Deadline) -> bool:
        self.check(deadline)
        return True

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _find(self, request: GenerationRequest) -> Answered:
        try:
            with self._reading:
                self._read_on()
            if found := self._answers.get(_key(request)):
                return found
            raise NotRecorded(f"{self._path.name} has no answer to this request (REPLAY_FILE)")
        except NotRecorded as missing:
            if self.settings.replay_miss == "fallback":
                raise
            hint = "REPLAY_MISS=fallback asks the next backend"
            raise RequestRefused(f"{missing}; {hint}", code=missing.code) from None

    def _read_on(self) -> None:
        self.check(Deadline(0))
        with self._path.open("rb") as file:
            now = os.fstat(file.fileno())
            which, done = self._read
            done = done if which == now.st_ino and done <= now.st_size else 0  # rotated, or emptied
            file.seek(done)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                done += len(line)
                self._remember(parse(line))
            self._read = (now.st_ino, done)

    def _remember(self, record: Mapping[str, Any] | None) -> None:
        if not record or record.get("status") != "ok" or record.get("response") is None:
            return
        # a line that somebody has changed is none, and keeps no other from being replayed
        with suppress(TypeError, ValueError, LookupError, AttributeError):
            if _is_own(record):
                self._answers[_key_of(record)] = _answered(record)


def _answered(record: Mapping[str, Any]) -> Answered:
    model, thoughts = record.get("model"), record.get("reasoning")
    usage = Usage(*(record.get(f"{kind}_tokens") for kind in ("input", "output", "cached", "reasoning")))
    calls = enumerate(record.get("tool_calls") or ())
    pieces = tuple(CallPiece(index, call["id"], call["name"], call["arguments"]) for index, call in calls)
    begin = Chunk(model=model, reasoning=(Reasoning(thoughts),) if thoughts else ())
    return record["response"], begin, Chunk("", ENDS[record.get("finish_reason")], usage, model, calls=pieces)


def _is_own(record: Mapping[str, Any]) -> bool:
    """Whether a backend was to answer, or did since the answer was missing here; and no text of it is cut."""
    failed = {a["outcome"] for a in record.get("attempts") or () if a["backend"] != record.get("backend")}
    messages = record.get("messages") or ()
    calls = [call for said in (record, *messages) for call in said.get("tool_calls") or ()]
    parts = (record, record.get("parameters") or {}, *messages, *calls)
    return failed <= {NotRecorded.code} and not any(name.endswith("_truncated") for part in parts for name in part)


def _key(request: GenerationRequest) -> str:
    """Return the key of what a request's line has with all its texts."""
    return _key_of(Record(WHOLE, "", "", request=request).asked())


def _key_of(record: Mapping[str, Any]) -> str:
    """Return the key of a line; one whose texts are hidden has the key of no request."""
    messages = record.get("messages")
    if messages is None:
        prompt = {"role": "user", "content": record.get("prompt")} | {n: record[n] for n in ("images",) if n in record}
        messages = [{"role": "system", "content": record["system"]}] if record.get("system") else []
        messages = [*messages, prompt]
    # 0 is 0.0
    same = [
        (name, float(v) if name in ("temperature", "top_p") else v)
        for name, v in sorted((record.get("parameters") or {}).items())
    ]
    tools = [record.get("tools"), record.get("tool_choice")]
    return hashlib.sha256(strict_json.dumps([messages, same, tools]).encode()).hexdigest()
