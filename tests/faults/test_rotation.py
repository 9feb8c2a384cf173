"""Figure 4: the log renamed, rotated and deleted under load."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .loads import PROJECT, Answer, Load, Service, count, figure, ids, not_tested, tally


def ids_of(answers: list[Answer]) -> list[str]:
    return [answer.request_id for answer in answers]


def test_rename(serve: Callable[..., Service]) -> None:
    """No line is lost when the log is renamed under load."""
    rotations = count(20, 200)
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=3)
    with Load(service) as load:
        for number in range(rotations):
            load.wait_for(20)
            service.log.rename(service.log.with_name(f"log.jsonl.{number}"))
        load.wait_for(20)

    files = list(service.log.parent.glob("log.jsonl*"))
    found = tally(ids_of(load.answers), *files)
    figure(4, f"{rotations} rotations by rename, {len(load.answers)} answers in {len(files)} files, {found}")
    assert not found
    assert not load.refused()
    assert not load.broken


def test_logrotate(serve: Callable[..., Service], tmp_path: Path) -> None:
    """No line is lost under logrotate with the file in deploy/, and all stand in files that it knows of."""
    tool = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if tool is None:
        not_tested("logrotate is not installed (apt-get install logrotate)")
    rotations = count(10, 29)  # it keeps 30
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=3)
    text = (PROJECT / "deploy" / "logrotate.conf").read_text()
    assert text.count("/var/log/llm-api/log.jsonl") == 1
    rules = tmp_path / "logrotate.conf"
    rules.write_text(text.replace("/var/log/llm-api/log.jsonl", str(service.log)))
    said = []
    with Load(service) as load:
        for _ in range(rotations):
            load.wait_for(20)
            command = [tool, "--force", "--state", tmp_path / "state", rules]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
            said.append((ended.returncode, ended.stdout + ended.stderr))
        load.wait_for(20)

    files = sorted(file.name for file in service.log.parent.iterdir())
    found = tally(ids_of(load.answers), *service.log.parent.glob("log.jsonl*"))
    figure(4, f"{rotations} rotations by logrotate, {len(load.answers)} answers in {len(files)} files, {found}")
    assert not found
    assert said == [(0, "")] * rotations
    gzipped = {f"log.jsonl.{number}.gz" for number in range(2, rotations + 1)}
    assert set(files) == {"log.jsonl", "log.jsonl.1"} | gzipped
    assert not load.refused()
    assert not load.broken


def test_own_rotation(serve: Callable[..., Service]) -> None:
    """No line is lost when several processes rotate by LOG_MAX_BYTES, and no file grows larger."""
    answers = count(600, 6000)
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=4, LOG_MAX_BYTES=20_000, LOG_BACKUPS=1000)
    with Load(service, prompt=lambda: "x" * 300) as load:
        load.wait_for(answers, seconds=200)

    files = list(service.log.parent.glob("log.jsonl*"))
    found = tally(ids_of(load.answers), *files)
    largest = max(file.stat().st_size for file in files)
    figure(4, f"LOG_MAX_BYTES over 4 processes: {len(load.answers)} answers in {len(files)} files, {found}")
    assert not found
    assert largest <= 20_000
    assert {file.name for file in files} == {"log.jsonl"} | {f"log.jsonl.{n}" for n in range(1, len(files))}
    assert not load.refused()
    assert not load.broken


def test_deletion(serve: Callable[..., Service], tmp_path: Path) -> None:
    """No line of a request that comes after the log was deleted is lost, nor one before: each stands in one file."""
    deletions = count(20, 200)
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=3)
    deleted: list[tuple[float, Path]] = []
    with Load(service) as load:
        for number in range(deletions):
            load.wait_for(20)
            kept = tmp_path / f"deleted.{number}"
            os.link(service.log, kept)  # to look at what nobody could look at otherwise
            service.log.unlink()
            deleted.append((time.monotonic(), kept))
        load.wait_for(20)

    found = tally(ids_of(load.answers), service.log, *(kept for _, kept in deleted))
    gone: set[str] = set()
    for moment, kept in deleted:
        gone |= ids(kept)[0].keys()
        assert gone.isdisjoint(answer.request_id for answer in load.answers if answer.began > moment)
    figure(4, f"{deletions} deletions, {len(load.answers)} answers, no later line lost; with the deleted files {found}")
    assert not found
    assert not load.refused()
    assert not load.broken
