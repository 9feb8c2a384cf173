"""A tool choice is kept, or the answer is refused; and the calls of an answer have ids that tell them apart."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from dataclasses import replace

from ..errors import InvalidAnswer
from ..types import CallPiece, Chunk, GenerationRequest


def kept(chunks: Iterator[Chunk], request: GenerationRequest) -> Generator[Chunk, None, None]:
    """Pass on an answer to a request that offers tools. Raises InvalidAnswer where it does not keep to the choice."""
    calls = _Calls(request)
    has_words = False
    for chunk in chunks:
        has_words = has_words or bool(chunk.text.strip() or chunk.refusal)
        taken = calls.taken(chunk.calls) if chunk.calls else ()
        finish = chunk.finish_reason and calls.ended(chunk.finish_reason, has_words, bool(chunk.refusal))
        yield replace(chunk, calls=taken, finish_reason=finish) if chunk.calls or finish else chunk


class _Calls:
    def __init__(self, request: GenerationRequest) -> None:
        self._choice = request.tool_choice
        self._ids: dict[int, str] = {}

    def taken(self, pieces: tuple[CallPiece, ...]) -> tuple[CallPiece, ...]:
        """Return the pieces with their ids, without those of a second call where one is wanted."""
        return tuple(self._with_id(piece) for piece in pieces if not piece.index or self._choice.parallel is not False)

    def _with_id(self, piece: CallPiece) -> CallPiece:
        if piece.index in self._ids:
            return piece
        if not piece.name or self._choice.name not in (None, piece.name):
            raise InvalidAnswer("the model called another tool than the one it had to", detail=piece.name or None)
        is_new = piece.id and piece.id not in self._ids.values()
        self._ids[piece.index] = piece.id if is_new else f"call_{secrets.token_hex(12)}"
        return replace(piece, id=self._ids[piece.index])

    def ended(self, reason: str, has_words: bool, is_refusal: bool) -> str:
        """Return the reason for which the answer ends, by whether it has calls."""
        if self._ids:
            return "tool_calls" if reason == "stop" else reason
        if reason == "tool_calls":
            raise InvalidAnswer("the model's answer says that it called a tool, and has no call")
        if self._choice.is_forced and (reason == "stop" or (reason == "length" and has_words)) and not is_refusal:
            raise InvalidAnswer("the model did not call the tool that it had to")
        return reason
