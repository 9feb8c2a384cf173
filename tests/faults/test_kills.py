"""Figure 1: workers that are killed at random moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .loads import Load, Service, count, figure, kill_workers, tally


def test_killed_workers(serve: Callable[..., Service]) -> None:
    """Every answer that a client has whole has exactly one line, whenever workers get kill -9, streams too."""
    kills = count(40, 1000)
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=3, THREADS=8, MAX_CONCURRENCY=8)
    with Load(service, clients=6) as load:
        kill_workers(service, load, kills)
        load.wait_for(1)
    assert service.generate("the next line mends what the last kill left").ok

    found = tally([answer.request_id for answer in load.answers], service.log)
    streams = sum(answer.stream for answer in load.answers)
    mended = service.log.with_name("log.jsonl.torn")
    repairs = mended.read_bytes().count(b"\n") if mended.exists() else 0
    figure(
        1,
        f"{kills} kills, {len(load.answers)} answers ({streams} streams), {found}, "
        f"{len(load.broken)} answers cut, {repairs} repairs".strip(),
    )
    assert not load.refused()
    assert not found


def test_killed_before_its_first_number(serve: Callable[..., Service], tmp_path: Path) -> None:
    """The empty file that a worker leaves which dies while it makes one for its numbers does not hide the others'."""
    service = serve(LLM_BACKEND="stub", PROMETHEUS_MULTIPROC_DIR=tmp_path)
    assert service.generate().ok
    (tmp_path / "histogram_999999.db").touch()
    assert sum(service.metrics("llm_api_requests_total").values()) == 1
