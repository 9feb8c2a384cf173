"""Put what the benchmarks found into the README's section, between its two marks; a --short run only shows it."""

from __future__ import annotations

from . import harness

README = harness.PROJECT / "README.md"
BEGIN, END = "<!-- bench: written by make bench -->\n", "<!-- bench: end -->"
PARTS = ("compare", "append", "model", "growth-prompts", "growth-answers", "growth-memory", "growth-logs",
         "growth-clients", "growth-p99")  # fmt: skip


def main() -> None:
    """Write it."""
    results = [(harness.RESULTS / f"{part}.md") for part in PARTS]
    text = "\n".join(file.read_text() for file in results if file.exists())
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if harness.is_short(__doc__):
        print(text)
    else:
        README.write_text(f"{before}{BEGIN}{text}{END}{after}")


if __name__ == "__main__":
    main()
