"""The table of what was replayed, at the end of the run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .cassettes import EXCUSED, PINNED, exchanges, of_kind
from .excused import ANSWERS, REQUESTS, why
from .test_answers import PATHS

TESTS = {
    "answers": ("test_answer", "test_error"),
    "cut": ("test_cut_stream",),
    "requests": ("test_request", "test_written"),
    "read back": ("test_what_the_client_reads", "test_for_a_client_of_openai"),
    "refused": ("test_refused",),
}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many were replayed and passed, then what is excused."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            test, _, name = report.nodeid.rpartition("::")[2].partition("[")
            seen[name.partition("/")[0], test, outcome] += 1
    say = terminalreporter.write_line
    say(f"\n{'passed of replayed':<42}{'exchanges':>10}" + "".join(f"{column:>12}" for column in TESTS))
    for sdist, version in PINNED:
        cells = [_cell(seen, sdist, tests) for tests in TESTS.values()]
        total = sum(exchange.sdist == sdist for exchange in exchanges())
        say(f"{f'{sdist} {version}':<42}{total:>10}" + "".join(f"{cell:>12}" for cell in cells))
    for what, number in excused().items():
        say(f"{number:>5} excused: {what}")


def _cell(seen: Counter[tuple[str, str, str]], sdist: str, tests: tuple[str, ...]) -> str:
    passed = sum(seen[sdist, test, "passed"] for test in tests)
    return f"{passed}/{passed + sum(seen[sdist, test, 'failed'] for test in tests)}"


def excused() -> Counter[str]:
    """Return how many exchanges are excused for which reason."""
    found = Counter({f"exchange: {reason}": len(of_kind(kind)) for kind, reason in EXCUSED.items()})
    for exchange in of_kind(*PATHS):
        for what, excuses in {"answer": ANSWERS, "request": REQUESTS}.items():
            if reason := why(exchange, excuses):
                found[f"{what}: {reason}"] += 1
    return found
