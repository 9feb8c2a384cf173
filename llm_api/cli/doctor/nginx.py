"""nginx's site: whether it waits as long, and takes as much, as the service."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ...settings import Settings
from .finding import Finding

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "": 1}


def check(settings: Settings, text: str) -> Iterator[Finding]:
    """Yield what is found of a site, given as its text."""
    text = re.sub(r"#.*", "", text)
    waits = min([seconds(said) for said in re.findall(r"proxy_read_timeout\s+(\w+)\s*;", text)], default=60)
    if waits <= settings.request_timeout:
        what = f"nginx waits {waits:g} s for an answer, which may take {settings.request_timeout:g} s"
        yield Finding("error", what, f"proxy_read_timeout {settings.request_timeout + 10:g}s;")
    takes = min([_bytes(said) for said in re.findall(r"client_max_body_size\s+(\w+)\s*;", text)], default=2**20)
    if takes < settings.max_body_bytes:
        what = f"nginx takes bodies of {takes:,} bytes, the service {settings.max_body_bytes:,}"
        yield Finding("error", what, f"client_max_body_size {settings.max_body_bytes};")
    yield Finding("ok", "nginx's configuration is read")


def seconds(said: str) -> float:
    """Read nginx's and Compose's way to write a time, such as 2m20s."""
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdw]|)", said))


def _bytes(said: str) -> float:
    found = re.fullmatch(r"(\d+)([kmg]?)", said.lower())
    size = int(found[1]) * 1024 ** " kmg".index(found[2] or " ") if found else 0
    return size or math.inf  # 0 is nginx's word for any size
