"""deploy/compose.yaml and deploy/kubernetes.yaml: valid, and true of the service and the image."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults.loads import PROJECT, not_tested

from llm_api import Settings

from .images import Container, Image
from .parts import DEPLOY, Nginx, Redis, nginx_site

COMPOSE = DEPLOY / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes.yaml"
SETTINGS = {field.name.upper() for field in dataclasses.fields(Settings)}
LIVE = "/health/live"
STOP_SECONDS = Settings().request_timeout + 20


def check(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    program = PROJECT / "build" / "tools" / "bin" / name
    if not program.exists():
        not_tested(f"{name} is not there (make build/tools/.done)")
    return subprocess.run([program, *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """deploy/kubernetes.yaml by kind."""
    return {part["kind"]: part for part in yaml.safe_load_all(KUBERNETES.read_text())}


@pytest.fixture(scope="module")
def pod(cluster: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = cluster["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """deploy/compose.yaml's, by name."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_kubernetes_takes_it(tmp_path: Path) -> None:
    """It is valid by the schemas of Kubernetes, where a misspelt field is not."""
    assert check("kubernetes-validate", "--strict", KUBERNETES).returncode == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(KUBERNETES.read_text().replace("containerPort:", "containerPrt:"))
    assert check("kubernetes-validate", "--strict", wrong).returncode != 0


def test_compose_takes_it(tmp_path: Path) -> None:
    """It is valid by the Compose Specification, where a misspelt field is not."""
    valid = ("--builtin-schema", "vendor.compose-spec")
    assert check("check-jsonschema", *valid, COMPOSE).returncode == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(COMPOSE.read_text().replace("read_only:", "readonly:"))
    assert check("check-jsonschema", *valid, wrong).returncode != 0


def test_kubernetes_parts_fit(cluster: dict[str, Any], pod: dict[str, Any]) -> None:
    """Service, autoscaler and disruption budget mean the Deployment and its pods."""
    labels = cluster["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = cluster[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    assert cluster["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "llm-api"
    assert cluster["Service"]["spec"]["ports"][0]["targetPort"] == pod["containers"][0]["ports"][0]["name"]


def test_kubernetes_fits_the_service(pod: dict[str, Any], image: Image, run: Callable[..., Container]) -> None:
    """Its settings are ours, its port and user the image's; its probes answer, its grace is longer than a request."""
    (container,) = pod["containers"]
    settings = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    assert {entry["name"] for entry in container["env"]} <= SETTINGS
    assert f":{container['ports'][0]['containerPort']}" in image.environ["BIND"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == image.config["User"]
    assert pod["terminationGracePeriodSeconds"] >= container["lifecycle"]["preStop"]["sleep"]["seconds"] + STOP_SECONDS
    box = run(**settings, OPENAI_API_KEY="a-key", LLM_FALLBACK="stub", OPENAI_BASE_URL="http://127.0.0.1:9")
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert box.get(container[name]["httpGet"]["path"]).status == 200
    box.say("Hello")
    box.terminate()
    assert box.wait() == 0
    assert '"prompt": "Hello"' in box.output()


def test_compose_fits_its_files(services: dict[str, Any]) -> None:
    """Its settings are ours, the files that it mounts are there, and its grace is longer than a request."""
    service = services["llm-api"]
    assert service["environment"].keys() <= SETTINGS
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert (DEPLOY / services["nginx"]["volumes"][0].partition(":")[0]).exists()
    assert float(service["stop_grace_period"].removesuffix("s")) >= STOP_SECONDS


def test_compose_works(
    services: dict[str, Any],
    image: Image,
    run: Callable[..., Container],
    front: Callable[..., Nginx],
    redis: Redis,
) -> None:
    """The image with its settings answers through nginx with its file, over the socket, within Redis' limits."""
    service = services["llm-api"]
    settings = service["environment"] | {"RATE_LIMIT_STORAGE": redis.url}
    box = run(**settings, LLM_BACKEND="stub", RATE_LIMIT="2/hour")
    nginx = front(site=nginx_site(f"unix:{box.path}", replace={}))
    assert [nginx.say("Hello").status for _ in range(3)] == [200, 200, 429]
    assert [line["client_ip"] for line in box.lines()] == ["127.0.0.1"] * 3
    kind, *healthy = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert image.run(*healthy, home=box.home).returncode == 0
    box.terminate()
    assert box.wait() == 0
    assert image.run(*healthy, home=box.home).returncode != 0
