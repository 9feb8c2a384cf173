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
# The seconds that each gives a container to stop in, where its file does not say.
KUBERNETES_GRACE, COMPOSE_GRACE = 30, "10s"
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
            told: dict[str, Any] = {}
            for source in each.get("envFrom") or ():
                told |= maps.get(_at(source, "configMapRef", "name")) or {}
            environment = _environment(told | {entry["name"]: entry.get("value") for entry in each.get("env") or ()})
            grace = _at(pod, "terminationGracePeriodSeconds")
            waits = re.search(r"sleep\D+(\d+)", str(_at(each, "lifecycle", "preStop")))
            missing = [probe for probe in ("livenessProbe", "readinessProbe") if not each.get(probe)]
            if _is_ours(f"{each.get('name')} {each.get('image')}", environment):
                yield Container(
                    f"pod of {name}",
                    environment,
                    (KUBERNETES_GRACE if grace is None else grace) - int(waits[1] if waits else 0),
                    "terminationGracePeriodSeconds",
                    missing,
                    _at(each, "livenessProbe", "httpGet", "path") or "",
                    is_many,
                )


def _of_compose(documents: Sequence[Any]) -> Iterator[Container]:
    for document in documents:
        for name, service in (_at(document, "services") or {}).items():
            told = service.get("environment") or {}
            if isinstance(told, list):
                told = {each.partition("=")[0]: each.partition("=")[2] if "=" in each else None for each in told}
            environment = _environment(told)
            grace = service.get("stop_grace_period") or COMPOSE_GRACE
            probe = service.get("healthcheck") or {"disable": True}
            is_probed = not probe.get("disable") and probe.get("test") not in ("NONE", ["NONE"])
            is_many = (_at(service, "deploy", "replicas") or service.get("scale") or 1) > 1
            if _is_ours(f"{name} {service.get('image')}", environment):
                missing = [] if is_probed else ["healthcheck"]
                yield Container(
                    f"container of {name}", environment, _seconds(grace), "stop_grace_period", missing, "", is_many
                )


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
