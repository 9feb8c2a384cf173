"""The backend that always answers, and says that no model did."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..runtime.deadline import Deadline
from ..types import Chunk, GenerationRequest, Usage
from .base import Backend, cut_at_stop

MAX_QUOTE_CHARS = 80


class Stub(Backend):
    """Deterministic; streams word by word; counts words as tokens."""

    name = "stub"
    model = "stub"
    serves = frozenset()

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        words = re.findall(r"\S+\s*", _text(request))
        said = words[: request.max_tokens]
        usage = Usage(sum(len(m.content.split()) for m in request.messages), len(said))
        finish = "length" if len(said) < len(words) else "stop"
        if not request.stream:
            return cut_at_stop(iter([Chunk("".join(said), finish, usage, self.model)]), request.stop)
        last = Chunk("", finish, usage, self.model)
        return cut_at_stop(iter([*(Chunk(word, model=self.model) for word in said), last]), request.stop)

    def check(self, deadline: Deadline) -> None:
        pass

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]


def _text(request: GenerationRequest) -> str:
    prompt = request.turns[-1].content
    quote = " ".join(prompt[:MAX_QUOTE_CHARS].split())
    return f"[stub] This is a stub: no language model answered. The prompt has {len(prompt)} characters: {quote}"
