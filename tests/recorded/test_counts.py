"""None is lost in silence: all that is recorded is replayed or excused."""

from __future__ import annotations

from collections import Counter

from . import test_answers, test_requests
from .cassettes import EXCUSED, exchanges, of_kind
from .conftest import excused
from .test_answers import PATHS

RECORDED = {
    "langchain-openai": {"openai": 5, "responses": 174, "embeddings": 4, "other": 15},
    "langchain-anthropic": {"claude": 65},
    "opentelemetry-instrumentation-openai": {
        **{"openai": 324, "completions": 61, "responses": 34, "embeddings": 48, "assistants": 208, "pictures": 11}
    },
    "opentelemetry-instrumentation-anthropic": {"claude": 84, "complete": 3},
    "opentelemetry-instrumentation-ollama": {"ollama": 16, "generate": 14, "embeddings": 3},
}
EXCUSED_ANSWERS = {
    "answer: functions, of before tools: no backend asks so": 12,
    "answer: two choices: no backend asks so": 2,
    "answer: compaction by Anthropic: no backend asks so": 1,
}
EXCUSED_REQUESTS = {
    "request: functions, of before tools": 12,
    "request: two choices": 2,
    "request: a page in place of a picture": 3,
    "request: tools that Anthropic runs": 38,
    "request: skills, MCP servers, context management": 6,
    "request: documents and search results": 4,
}


def test_all_are_known() -> None:
    """Each of the 1,069 exchanges is of a known kind, and has a name of its own."""
    found = Counter((exchange.sdist, exchange.kind) for exchange in exchanges())
    assert found == {(sdist, kind): n for sdist, kinds in RECORDED.items() for kind, n in kinds.items()}
    assert len({exchange.name for exchange in exchanges()}) == found.total() == 1069
    assert {kind for _, kind in found} == {*PATHS, *EXCUSED}


def test_all_are_replayed_or_excused() -> None:
    """The counts of both."""
    found = {what: n for what, n in excused().items() if not what.startswith("exchange")}
    assert found == EXCUSED_ANSWERS | EXCUSED_REQUESTS
    assert (len(test_answers.REPLAYED), sum(EXCUSED_ANSWERS.values())) == (479, len(of_kind(*PATHS)) - 479)
    asked = of_kind(*test_requests.FRONTS, *test_requests.READINGS)
    assert (len(test_requests.REPLAYED), sum(EXCUSED_REQUESTS.values())) == (490, len(asked) - 490)
