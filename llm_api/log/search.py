"""What to look for in the records of a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .files import Entry


@dataclass(frozen=True)
class Wanted:
    """Which records to look at; None and False mean: any. Times in Unix seconds."""

    text: str | None = None
    regex: re.Pattern[str] | None = None
    backend: str | None = None
    status: str | None = None
    since: float | None = None
    until: float | None = None
    slower_than_ms: float | None = None
    fallbacks: bool = False
    caller: str | None = None

    def has(self, record: Entry) -> bool:
        """Return whether `record` is one of them."""
        return (
            (self.backend is None or self.backend in (record.get("backend"), record.get("requested_backend")))
            and (self.status is None or self.status in (record.get("status"), str(record.get("http_status"))))
            and (self.since is None or record.get("timestamp", 0) >= self.since)
            and (self.until is None or record.get("timestamp", 0) < self.until)
            and (self.slower_than_ms is None or (record.get("duration_ms") or 0) > self.slower_than_ms)
            and (self.caller is None or record.get("caller") == self.caller)
            and (not self.fallbacks or bool(record.get("fallback")))
            and self._has_words(record)
        )

    def _has_words(self, record: Entry) -> bool:
        words = [] if self.text is None and self.regex is None else list(texts(record))
        has_text = self.text is None or any(self.text.casefold() in text.casefold() for text in words)
        return has_text and (self.regex is None or any(map(self.regex.search, words)))


def texts(record: Entry) -> Iterator[str]:
    """Yield what was said: system, messages, inputs or prompt, thoughts, response, calls, and an error's message."""
    error = (record.get("error") or {}).get("message")
    asked = (record.get("system"), record.get("prompt"), *_turns(record))
    for text in (*asked, record.get("reasoning"), record.get("response"), *calls(record), error):
        if isinstance(text, str):
            yield text


def calls(record: Entry) -> list[str]:
    """Return the calls of an answer, and of the turns before it, as lines."""
    said = [record, *(turn for turn in record.get("messages") or [] if isinstance(turn, dict))]
    made = [call for turn in said for call in turn.get("tool_calls") or () if isinstance(call, dict)]
    return [f"{call.get('name')} {call.get('arguments', '')}" for call in made]


def question(record: Entry) -> Any:
    """Return the prompt, or the last of the messages or inputs; None where the log has neither."""
    return record.get("prompt") or next(reversed(_turns(record)), None)


def _turns(record: Entry) -> list[Any]:
    turns = [*(record.get("messages") or ()), *(record.get("inputs") or ())]
    return [turn.get("content", turn.get("text")) for turn in turns if isinstance(turn, dict)]
