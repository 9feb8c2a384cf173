"""/metrics and deploy/alerts.yml, as Prometheus' own tools read them."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from faults.loads import Load, Service, eventually, figure, kill_workers
from faults.upstreams import OPENAI, UNTIL_CLOSED, Script, Upstream

from .parts import DEPLOY, tool

ALERTS = DEPLOY / "alerts.yml"
KILLS = 30
SAMPLE = re.compile(r"^(llm_api_\w+(?:\{.*\})?) (\S+)$", re.MULTILINE)


def promtool(*arguments: str | Path, **more: str) -> str:
    """Return what promtool says, in success and in failure."""
    command = [tool("promtool"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    return f"exit {ran.returncode}\n{ran.stdout}{ran.stderr}"


def samples(service: Service) -> dict[str, float]:
    """Return each series of /metrics with its value."""
    answer = service.get("/metrics")
    assert answer.status == 200, (answer.body, service.output()[-3000:])
    return {series: float(value) for series, value in SAMPLE.findall(answer.body.decode())}


@pytest.fixture
def busy(serve: Callable[..., Service], behind: Callable[[Script], Upstream], tmp_path: Path) -> Service:
    """A service that has counted what there is to count: fallbacks, an open breaker, a log that can't be written."""
    settings = OPENAI.settings(behind(lambda peer: peer.send(UNTIL_CLOSED)))  # nothing in it: invalid_answer
    service = serve(WEB_CONCURRENCY=2, LOG_REQUIRED="false", **settings | {"LLM_FALLBACK": "stub"})
    for number in range(12):
        assert service.generate(stream=number % 2 == 0).ok
    service.log.rename(tmp_path / "log.jsonl")
    service.log.mkdir()  # so none can be written
    assert service.generate().ok
    return service


def test_names(busy: Service) -> None:
    """promtool finds nothing wrong with the names, types and texts of /metrics; the alerts use no other names."""
    text = busy.get("/metrics").body.decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    shown = types.keys() | {f"{name}_bucket" for name, kind in types.items() if kind == "histogram"}
    named = set(re.findall(r"\bllm_api_\w+", ALERTS.read_text()))

    said = promtool("check", "metrics", input=text)

    figure("metrics", f"{len(types)} metrics in {len(SAMPLE.findall(text))} series; promtool: {said!r}")
    assert said == "exit 0\n"
    assert len(types) == len(set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))) >= 9
    assert len(named) >= 5
    assert named <= shown


def test_rules() -> None:
    """promtool takes the rules, and alerts_test.yml has for each a time when it fires and one when it does not."""
    names = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    cases = re.findall(r"alertname: (\w+)\n\s+exp_alerts:( \[\])?", (DEPLOY / "alerts_test.yml").read_text())

    checked = promtool("check", "rules", ALERTS)
    tested = promtool("test", "rules", DEPLOY / "alerts_test.yml")

    figure("alerts", f"{len(names)} rules, {len(cases)} cases: {tested.split()}")
    assert f"SUCCESS: {len(names)} rules found" in checked, checked
    assert tested.startswith("exit 0"), tested
    assert {(name, quiet) for name in names for quiet in ("", " []")} == set(cases)


def test_begins_at_zero(serve: Callable[..., Service]) -> None:
    """What can go wrong is at zero before the first request, so that Prometheus sees its first step."""
    assert samples(serve(LLM_BACKEND="stub")) == {
        "llm_api_requests_in_flight": 0,
        "llm_api_log_write_failures_total": 0,
    }


def test_empty_file(serve: Callable[..., Service]) -> None:
    """A worker that is killed as it makes a file for its numbers does not take /metrics with it."""
    service = serve(LLM_BACKEND="stub")
    assert service.generate().ok
    eventually(lambda: samples(service)["llm_api_requests_in_flight"] == 0)
    before = samples(service)
    (_folder(service) / "counter_1.db").touch()
    assert samples(service) == before


@contextmanager
def prometheus(home: Path, target: int, port: int) -> Iterator[str]:
    """Run Prometheus over one service with the project's rules; yield its address."""
    scrape = {"job_name": "llm-api", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    every = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    (home / "prometheus.yml").write_text(
        json.dumps({"global": every, "rule_files": [str(ALERTS)], "scrape_configs": [scrape]})
    )
    command = [tool("prometheus"), f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def firing(address: str) -> dict[str, list[dict[str, str]]]:
    """Return the labels of the alerts whose expression holds, whether for long enough or not."""
    with suppress(OSError), urllib.request.urlopen(f"{address}/api/v1/alerts", timeout=5) as answer:
        found: dict[str, list[dict[str, str]]] = {}
        for alert in json.load(answer)["data"]["alerts"]:
            found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found
    return {}


def test_alerts_of_a_sick_service(busy: Service, tmp_path: Path, free_port: int) -> None:
    """Prometheus itself sees in the real /metrics what the rules look for: fallbacks, breakers, an unwritten log."""
    with prometheus(tmp_path, busy.port, free_port) as address:
        expected = {"LLMAPIFallsBack", "LLMAPIBreakerOpen", "LLMAPILogNotWritten"}
        alerts = eventually(lambda: busy.generate().ok and expected <= firing(address).keys() and firing(address))
        busy.stop()
        eventually(lambda: "LLMAPIDown" in firing(address))
    figure("alerts", f"of a service whose backend and log fail: {sorted(alerts)}")
    assert alerts.keys() == expected
    [fallback] = alerts["LLMAPIFallsBack"][:1]
    assert fallback["requested_backend"] == "openai"
    assert fallback["reason"] in ("invalid_answer", "circuit_open")


def test_kills(serve: Callable[..., Service]) -> None:
    """Over 30 kills of workers no counter goes back or forgets an answer, and nothing stays in flight (figure 20)."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=3)
    before: dict[str, float] = {}
    with Load(service) as load:
        for _ in range(KILLS):
            kill_workers(service, load, 1)
            now = samples(service)
            gone_back = {name: (value, now.get(name)) for name, value in before.items() if now.get(name, 0) < value}
            assert not {name: values for name, values in gone_back.items() if "in_flight" not in name}
            before = now
    eventually(lambda: samples(service)["llm_api_requests_in_flight"] == 0, 5)

    end = samples(service)
    counted = sum(value for name, value in end.items() if name.startswith("llm_api_requests_total"))
    text = f"{len(load.answers)} answers, {counted:g} counted, {len(service.lines())} logged"
    figure(20, f"{KILLS} kills: {text}; in flight {end['llm_api_requests_in_flight']:g}")
    assert len(load.answers) <= counted <= len(service.lines())
    folder = eventually(lambda: _folder(service))
    assert folder.is_dir()
    service.stop()
    assert not folder.exists()


def _folder(service: Service) -> Path:
    """Return where its workers keep their numbers."""
    [folder] = {
        Path(name).parent
        for pid in service.workers()
        for name in re.findall(r"/\S+\.db$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    }
    return folder
