"""Put what the benchmarks found where people read it; a --short run shows it only."""

from __future__ import annotations

import shutil

from . import harness
from .services import PROJECT

README = PROJECT / "README.md"
PAGE = PROJECT / "docs" / "bench" / "README.md"
BEGIN, END = "<!-- bench: written by make bench -->\n", "<!-- bench: end -->"
MAIN = ("compare", "append", "model")
GROWTH = ("prompts", "answers", "memory", "logs", "clients", "p99")
ABOUT = "# How the cost grows\n\nWritten by `make bench`; what is measured, and beside what, is in `bench/growth.py`.\n"


def main() -> None:
    """Write the README's table, and the page beside the pictures."""
    table = "\n".join([harness.machine() + "\n", *map(_result, MAIN)])
    page = "\n".join([ABOUT, harness.machine() + "\n", *(_result(f"growth-{name}") for name in GROWTH)])
    if not harness.is_short(__doc__):
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}")
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page)
        for picture in harness.RESULTS.glob("*.png"):
            shutil.copy(picture, PAGE.parent)


def _result(part: str) -> str:
    return (harness.RESULTS / f"{part}.md").read_text()


if __name__ == "__main__":
    main()
