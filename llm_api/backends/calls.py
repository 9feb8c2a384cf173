"""Tool calls as servers with OpenAI's wire send them, in pieces and whole; what each of them makes of it differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import strict_json
from ..strict_json import as_object
from ..types import CallPiece


@dataclass
class _Call:
    index: int
    key: object
    id: str
    name: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        text = "".join(self.said)  # of which there may be none yet
        return bool(text) and as_object(text) is not None


class CallReader:
    """The calls of one answer. Pieces belong to the call of their index, which servers repeat, shuffle or leave out."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def whole(self, calls: Iterable[Mapping[str, Any]] | None) -> tuple[CallPiece, ...]:
        """Return the calls of a whole message: each entry is one, whatever its index."""
        return tuple(piece for said in calls or () for piece in self._read(said, self._begun(said)))

    def pieces(self, calls: Iterable[Mapping[str, Any]] | None) -> tuple[CallPiece, ...]:
        """Return what a `delta` says of calls; of a call that has no name yet, nothing."""
        return tuple(piece for said in calls or () for piece in self._read(said, self._of(said) or self._begun(said)))

    def _of(self, said: Mapping[str, Any]) -> _Call | None:
        """Return the call that this goes on with, None where it begins one."""
        key, name = said.get("index"), (said.get("function") or {}).get("name")
        fitting = [call for call in self._calls if key is None or call.key == key]
        if key is None and said.get("id"):
            fitting = [call for call in fitting if call.id == said["id"]]
        if not fitting or (said.get("id") and fitting[-1].id and said["id"] != fitting[-1].id):
            return None
        return None if name and not said.get("id") and fitting[-1].name and fitting[-1].is_whole else fitting[-1]

    def _begun(self, said: Mapping[str, Any]) -> _Call:
        self._calls.append(_Call(len(self._calls), said.get("index"), said.get("id") or ""))
        return self._calls[-1]

    def _read(self, said: Mapping[str, Any], call: _Call) -> Iterable[CallPiece]:
        function = said["function"]
        text = function.get("arguments") or ""
        text = text if isinstance(text, str) else strict_json.dumps(text)
        call.said.append(text)
        if call.name:
            yield CallPiece(call.index, arguments=text)
        elif name := function.get("name"):
            call.name = name
            yield CallPiece(call.index, call.id or said.get("id") or "", name, "".join(call.said))
