"""What providers mean when they don't answer: the rules of faults.toml over codes, statuses and wordings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import errors
from ..errors import BackendError, RequestRefused

_SAID: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def _any(wordings: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(wordings) or "(?!)", re.IGNORECASE)


class Rule(NamedTuple):
    """A kind of error and how providers say it; faults.toml explains the fields."""

    kind: type[RequestRefused] | type[BackendError]
    words: str
    codes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    wording: re.Pattern[str] = _any(())
    unless: re.Pattern[str] = _any(())

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Rule:
        """Return the rule that a table of faults.toml is."""
        codes, statuses = frozenset(said.get("codes", ())), frozenset(said.get("statuses", ()))
        wording, unless = _any(said.get("wordings", ())), _any(said.get("unless", ()))
        return cls(getattr(errors, said["kind"]), said["words"], codes, statuses, wording, unless)

    def fits(self, status: int, codes: set[str], said: str) -> bool:
        if not self.codes.isdisjoint(codes):
            return True
        return status in self.statuses and bool(self.wording.search(said)) and not self.unless.search(said)


REFUSED = frozenset({400, 413, 422})
REFUSALS = frozenset(_SAID["others"]["refusals"])
OUTPUT_LIMIT = _any(_SAID["others"]["output_limits"])
STATUSES = {word: int(status) for status, words in _SAID["words"].items() for word in words}
_RULES = [Rule.read(said) for said in _SAID["rules"]]
_BY_STATUS = {int(status): Rule.read(said) for status, said in _SAID["by_status"].items()}
# vLLM's, when there is room for the answer, but not after this prompt.
_ROOM = re.compile(r"is too large: (\d+)\D.*maximum context length is (\d+)")


def rule_for(status: int, codes: set[str], said: str) -> Rule:
    """Return what an error reply means: the first rule that fits, else by its status."""
    room = _ROOM.search(said)
    if room and int(room[1]) < int(room[2]):
        said = said.replace("is too large", "")
    return next((rule for rule in _RULES if rule.fits(status, codes, said)), None) or _rule_of_status(status)


def _rule_of_status(status: int) -> Rule:
    unknown = _BY_STATUS[500] if status > 500 else Rule(errors.InvalidAnswer, "answered with an unexpected status")
    kind, words, *_ = _BY_STATUS.get(status, unknown)
    return Rule(kind, words if kind is RequestRefused else f"{words} (status {status})")
