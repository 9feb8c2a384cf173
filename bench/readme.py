"""Put what the benchmarks found into docs/bench/README.md, between its markers; a --short run shows it only."""

from __future__ import annotations

import shutil

from . import harness
from .services import PROJECT

PAGE = PROJECT / "docs" / "bench" / "README.md"
# The markers' names, and the results that lie between them.
PARTS = {
    "bench": ("compare", "append", "model"),
    "growth": tuple(f"growth-{name}" for name in ("prompts", "answers", "memory", "logs", "clients", "p99")),
}


def main() -> None:
    """Write the tables, and the pictures beside them."""
    page = PAGE.read_text()
    for name, results in PARTS.items():
        page = between(page, name, "\n".join([harness.machine() + "\n", *map(_result, results)]))
    if not harness.is_short(__doc__):
        PAGE.write_text(page)
        for picture in harness.RESULTS.glob("*.png"):
            shutil.copy(picture, PAGE.parent)


def between(page: str, name: str, text: str) -> str:
    """Return `page` with `text` between the markers `name`. Raises ValueError where they are missing."""
    before, rest = page.split(f"<!-- {name}: written by make bench -->\n")
    _, after = rest.split(f"<!-- {name}: end -->")
    return f"{before}<!-- {name}: written by make bench -->\n{text}<!-- {name}: end -->{after}"


def _result(part: str) -> str:
    return (harness.RESULTS / f"{part}.md").read_text()


if __name__ == "__main__":
    main()
