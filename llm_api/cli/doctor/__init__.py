"""`flask llm doctor`: what an operator should know of a deployment before its users do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flask import current_app

from ...web.service import Service
from . import backends, callers, log, machine, manifests, nginx, server
from .finding import Finding

SERVED = "docs/flask.md says what your gunicorn needs"


def examine(service: Service, site: Path | None, manifest_files: Sequence[Path]) -> Iterator[Finding]:
    """Yield what is found of backends, log, the server that runs, callers and the machine.

    And of nginx's `site`, and of Kubernetes manifests and Compose files, where they are given.
    """
    settings = service.settings
    yield from backends.check(service.chain)
    yield from log.check(service)
    if current_app.import_name == "llm_api":
        told = server.told(settings.bind)
        yield server.compared(settings, told)
        settings = replace(settings, **{name: told[name] for name in ("bind", "threads") if name in told})
        yield from callers.check(settings)
        yield from server.check(settings)
    else:
        yield Finding("warning", "how your app is served is not known here: its address, threads and timeouts", SERVED)
    yield from callers.check_rates(service, settings)
    yield from machine.check(service)
    if site:
        yield from nginx.check(settings, site.read_text("utf-8", "replace"))
    if manifest_files:
        yield from manifests.check(settings, manifest_files)
