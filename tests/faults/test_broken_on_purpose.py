"""The checks of figures 1 and 2 can fail: with a part of the protocol left out (breakages.py) they find damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from .loads import HERE, Load, figure, kill_workers, running, tally
from .test_writer import writers

ROUNDS = 10


@pytest.mark.parametrize("breakage", ["no_lock", "no_repair"])
def test_broken_writer(tmp_path: Path, breakage: str) -> None:
    """Without the lock, or without the repair, acknowledged lines are lost or torn."""
    for number in range(1, ROUNDS + 1):
        log = tmp_path / f"{number}.jsonl"
        said = writers("kill", log, 50, 0, breakage)
        found = tally(said["acknowledged"], log)
        if found.unlogged:
            break
    figure(2, f"broken on purpose, {breakage}: {number * 50} kills, {len(said['acknowledged'])} acknowledged, {found}")
    assert found.unlogged


def test_answer_before_line(tmp_path: Path) -> None:
    """When the line is written after the answer has left, kills leave answers without a line."""
    (tmp_path / "broken.py").write_text("import breakages\nbreakages.answer_before_line()\nfrom wsgi import app\n")
    settings = {"LLM_BACKEND": "stub", "WEB_CONCURRENCY": 3, "THREADS": 4, "MAX_CONCURRENCY": 4, "PYTHONPATH": HERE}
    kills = 0
    with running(tmp_path, "broken:app", **settings) as service, Load(service, clients=6) as load:
        for _ in range(ROUNDS):
            kill_workers(service, load, 10)
            kills += 10
            load.wait_for(50)  # what can still be written is, by then
            answers = [answer.request_id for answer in load.answers[:-50]]
            found = tally(answers, service.log)
            if found.unlogged:
                break
    figure(1, f"broken on purpose, answer before line: {kills} kills, {len(answers)} answers, {found}")
    assert found.unlogged
