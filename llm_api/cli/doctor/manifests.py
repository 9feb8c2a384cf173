"""Kubernetes manifests and Compose files: whether what runs there is probed, may end in order, and counts together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...settings import PREFIX, Settings
from .finding import Finding
from .nginx import seconds

RENDERED = "give what kubectl kustomize, helm template or docker compose config writes"
# How long each gives a container to stop in: where its file says so, and where it does not.
POD_GRACE, KUBERNETES_SECONDS = "terminationGracePeriodSeconds", 30
COMPOSE_GRACE, COMPOSE_TIME = "stop_grace_period", "10s"
PROBES = ("livenessProbe", "readinessProbe")
# Stands for a value that a file takes from somewhere else: a Secret, a variable.
ELSEWHERE = "from elsewhere"


class Container(NamedTuple):
    """A container of this service, whichever kind of file has it.

    `grace` are the seconds between SIGTERM and SIGKILL, `asked` is the path of its liveness probe.
    """

    name: str
    environment: Mapping[str, str]
    grace: float
    grace_name: str
    missing_probes: Sequence[str]
    asked: str
    is_many: bool


def check(settings: Settings, files: Sequence[Path]) -> Iterator[Finding]:
    """Yield what is found of these files, all of one deployment. What they do not say is taken as it is here."""
    names = ", ".join(path.name for path in files)
    try:
        documents = [document for path in files for document in _documents(path)]
        ours = [*_of_kubernetes(documents), *_of_compose(documents)]
    except ImportError:
        yield Finding("warning", f"{names} can't be read without PyYAML", "pip install pyyaml")
    except (AttributeError, LookupError, TypeError, ValueError):
        yield Finding("error", f"{names} can't be read as a Kubernetes manifest or a Compose file", RENDERED)
    else:
        for container in ours:
            yield from _check(settings, container)
        if ours:
            yield Finding("ok", f"{names}: read, with {', '.join(container.name for container in ours)}")
        else:
            what = f"{names} has no container of this service: none sets LLM_BACKEND, or is named llm-api"
            yield Finding("warning", what, RENDERED)


def _check(settings: Settings, container: Container) -> Iterator[Finding]:
    said = container.environment.get("REQUEST_TIMEOUT", "")
    takes = float(said) if re.fullmatch(r"\d+(\.\d*)?", said) else settings.request_timeout
    if container.grace <= takes:
        what = f"the {container.name} has {container.grace:g} s to stop, a request {takes:g} s"
        yield Finding("error", what, f"raise {container.grace_name} by {takes + 20 - container.grace:g} s")
    if container.missing_probes:
        what = f"the {container.name} has no {' and no '.join(container.missing_probes)}"
        yield Finding("warning", what, "let it ask /health/live, as in deploy/")
    if container.asked.endswith("/health"):
        what = f"the {container.name} is restarted when a provider is away: its livenessProbe asks {container.asked}"
        yield Finding("warning", what, f"let it ask {container.asked}/live")
    is_limited = container.environment.get("RATE_LIMIT", settings.rate_limit)
    storage = container.environment.get("RATE_LIMIT_STORAGE", settings.rate_limit_storage)
    if container.is_many and is_limited and storage in ("", "memory://"):
        what = f"each worker of each {container.name} counts requests for itself"
        yield Finding("warning", what, "set RATE_LIMIT_STORAGE=redis://HOST:PORT/0 there")


def _documents(path: Path) -> Iterator[Any]:
    import yaml

    try:
        for document in yaml.safe_load_all(path.read_bytes()):
            yield from document["items"] if _at(document, "kind") == "List" else [document]
    except yaml.YAMLError:
        raise ValueError from None


def _at(tree: Any, *names: str) -> Any:
    """Return what stands there; None where nothing does."""
    for name in names:
        tree = tree.get(name) if tree else None
    return tree


def _of_kubernetes(documents: Sequence[Any]) -> Iterator[Container]:
    maps = {_at(each, "metadata", "name"): _at(each, "data") for each in documents if _at(each, "kind") == "ConfigMap"}
    scaled = {_at(each, "spec", "scaleTargetRef", "name") for each in documents}
    for document in documents:
        name = _at(document, "metadata", "name")
        pod = _at(document, "spec", "template", "spec") or _at(document, "spec")
        is_many = name in scaled or _at(document, "kind") == "DaemonSet" or (_at(document, "spec", "replicas") or 1) > 1
        for each in _at(pod, "containers") or ():
            environment = _environment(_told(each, maps))
            if _is_ours(f"{each.get('name')} {each.get('image')}", environment):
                missing = [probe for probe in PROBES if not each.get(probe)]
                asked = _at(each, "livenessProbe", "httpGet", "path") or ""
                yield Container(f"pod of {name}", environment, _grace(pod, each), POD_GRACE, missing, asked, is_many)


def _told(container: Any, maps: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for source in container.get("envFrom") or ():
        told |= maps.get(_at(source, "configMapRef", "name")) or {}
    return told | {entry["name"]: entry.get("value") for entry in container.get("env") or ()}


def _grace(pod: Any, container: Any) -> float:
    grace = _at(pod, POD_GRACE)
    waits = re.search(r"sleep\D+(\d+)", str(_at(container, "lifecycle", "preStop")))
    return (KUBERNETES_SECONDS if grace is None else grace) - int(waits[1] if waits else 0)


def _of_compose(documents: Sequence[Any]) -> Iterator[Container]:
    services = (item for document in documents for item in (_at(document, "services") or {}).items())
    for name, service in services:
        environment = _environment(_named(service.get("environment") or {}))
        if _is_ours(f"{name} {service.get('image')}", environment):
            grace = _seconds(service.get(COMPOSE_GRACE) or COMPOSE_TIME)
            missing = [] if _is_probed(service.get("healthcheck") or {"disable": True}) else ["healthcheck"]
            is_many = (_at(service, "deploy", "replicas") or service.get("scale") or 1) > 1
            yield Container(f"container of {name}", environment, grace, COMPOSE_GRACE, missing, "", is_many)


def _named(told: Mapping[str, Any] | list[str]) -> Mapping[str, Any]:
    """Return an environment by its names, which may be a list of NAME=VALUE."""
    if not isinstance(told, list):
        return told
    split = (each.partition("=") for each in told)
    return {name: value if equals else None for name, equals, value in split}


def _is_probed(healthcheck: Any) -> bool:
    return not healthcheck.get("disable") and healthcheck.get("test") not in ("NONE", ["NONE"])


def _seconds(grace: str) -> float:
    if "$" in grace:
        raise ValueError(grace)
    return seconds(grace)


def _is_ours(names: str, environment: Mapping[str, str]) -> bool:
    return "LLM_BACKEND" in environment or bool(re.search("llm[-_]?api", names))


def _environment(told: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix(PREFIX): ELSEWHERE if value is None or "$" in str(value) else str(value)
        for name, value in told.items()
    }
