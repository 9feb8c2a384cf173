"""What the benchmarks share: interleaved rounds, ratios, tables, pictures.

Absolute times on a shared machine mean little. So everything that is compared is measured in turn, round after round,
and what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from .services import ENVIRONMENTS, python

RESULTS = ENVIRONMENTS / "results"

T = TypeVar("T")
Name = TypeVar("Name", str, int)


def interleaved(rounds: int, measures: Mapping[Name, Callable[[], T]]) -> dict[Name, list[T]]:
    """Take each measure once a round, in turn."""
    taken: dict[Name, list[T]] = {name: [] for name in measures}
    for number in range(rounds):
        order = list(measures)
        for name in order if number % 2 == 0 else reversed(order):
            taken[name].append(measures[name]())
    return taken


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine() -> str:
    """Return what the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    packages = {"core": ("flask", "gunicorn", "requests")}
    packages |= {"fastapi": ("fastapi", "uvicorn", "httpx"), "litellm": ("litellm",)}
    versions = [f"{name} {_version(env, name)}" for env, names in packages.items() if _installed(env) for name in names]
    where = f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"
    return textwrap.fill(f"{time.strftime('%Y-%m-%d')}, {where}; {', '.join(versions)}.", 120)


def publish(part: str, text: str) -> None:
    """Print a result, and keep it for docs/bench."""
    print(text, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{part}.md").write_text(text.rstrip() + "\n")


def plot(name: str, x: str, y: str, lines: Mapping[str, Mapping[float, float]], *, log_y: bool = True) -> None:
    """Draw lines over a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for label, points in lines.items():
        axes.plot(list(points), list(points.values()), marker="o", markersize=4, label=label)
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log" if log_y else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=120)
    pyplot.close(figure)


def is_short(description: str | None) -> bool:
    """Read the command line: --short is a run that only shows that everything works."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--short", action="store_true", help="only show that it works: one round, no figures to quote")
    return bool(parser.parse_args().short)


@contextmanager
def workshop() -> Iterator[tuple[ExitStack, Path]]:
    """Return a stack that ends what is started on it, and a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="llm-api-bench-") as folder, ExitStack() as stack:
        yield stack, Path(folder)


def installed_megabytes(environment: str) -> float:
    """Return the size of what is installed in an environment, without pip's own."""
    folder = next((ENVIRONMENTS / environment / "lib").glob("python3.*")) / "site-packages"
    own = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    files = (file for part in folder.iterdir() if not part.name.startswith(own) for file in (part, *part.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _installed(environment: str) -> bool:
    return python(environment).exists()


def _version(environment: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python(environment), "-c", code], capture_output=True, text=True).stdout.strip()
