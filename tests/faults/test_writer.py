"""Figures 2 and 6: the writer alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .loads import HERE, PROJECT, count, figure, tally


def writers(*arguments: object) -> dict[str, Any]:
    """Run writers.py; return what it says."""
    command = [sys.executable, "-W", "error", HERE / "writers.py", *map(str, arguments)]
    ended = subprocess.run(command, env={"PYTHONPATH": str(PROJECT)}, stdout=subprocess.PIPE, timeout=240, check=True)
    said: dict[str, Any] = json.loads(ended.stdout)
    return said


def test_killed_writers(tmp_path: Path) -> None:
    """No acknowledged line is lost or torn by kill -9 of its writer or another's, and torn lines were mended."""
    log = tmp_path / "log.jsonl"
    said = writers("kill", log, count(150, 1000), 5)

    found = tally(said["acknowledged"], log)
    figure(2, f"{said['kills']} kills, {len(said['acknowledged'])} acknowledged, {found}, {said['repairs']} repairs")
    assert not found
    assert said["repairs"] >= 5


def test_pace(tmp_path: Path) -> None:
    """Every line of eight writers at once is there; how fast that goes is measured, not asserted."""
    lines = count(2_000, 20_000)
    alone = writers("measure", tmp_path / "alone.jsonl", 1, lines)
    log = tmp_path / "log.jsonl"
    crowd = writers("measure", log, 8, lines)

    size = log.stat().st_size / (8 * lines)
    text = f"append p50 {alone['p50'] * 1e6:.0f} µs alone, {crowd['p50'] * 1e6:.0f} µs in 8 processes, "
    figure(6, text + f"{crowd['lines_per_second']:,.0f} lines/s over 8 processes at {size:,.0f} bytes")
    assert not tally([f"{name}-{number}" for name in range(8) for number in range(lines)], log)
