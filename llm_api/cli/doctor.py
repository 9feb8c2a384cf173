"""`flask llm doctor`: what an operator should know of a deployment before its users do."""

from __future__ import annotations

import http.client
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flask import current_app

from .. import strict_json
from ..backends import Backend
from ..backends.http.connections import UnixConnection
from ..errors import LLMAPIError
from ..exchange.chain import Chain, Names
from ..exchange.health import REMEDY, reason_of
from ..runtime.cores import lines_of, usable_cores
from ..runtime.deadline import Deadline
from ..settings import Settings
from ..web.service import Service
from .show import counted

CHECK_SECONDS = 5.0
SERVED = "docs/flask.md says what your gunicorn needs"
SOON_DAYS = 90
FEW_BYTES = 2**30
CPUINFO = Path("/proc/cpuinfo")
MOUNTS = Path("/proc/self/mountinfo")
RSYSLOG = Path("/etc/rsyslog.d")
# The vendors' announced dates, by model.
SHUTDOWNS: dict[str, date] = tomllib.loads(Path(__file__).with_name("shutdowns.toml").read_text("utf-8"))
# NVIDIA's, AMD's, Windows' for Linux.
GPUS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
WHEEL = "install its wheel for that GPU: docs/local-model.md"
COMPUTES_ON_GPU = {
    "xllamacpp": "any('GPU' in str(device['type']) for device in xllamacpp.get_device_info())",
    "torch": "torch.cuda.is_available()",
}
# The kernel's names (/proc/cpuinfo) for llama.cpp's, of those that its sums take most from.
INSTRUCTIONS = {
    **{"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI"},
    **{"amx_int8": "AMX_INT8", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE"},
}


class Finding(NamedTuple):
    """`level` is `ok`, `warning` or `error`; `remedy` says what to do."""

    level: str
    what: str
    remedy: str = ""


def examine(service: Service, nginx: Path | None) -> Iterator[Finding]:
    """Yield what is found of the server that runs, the settings, backends, log, gunicorn, and nginx where given."""
    settings = service.settings
    is_ours = current_app.import_name == "llm_api"
    for backend, _ in service.chain.links:
        yield from _backend(backend, is_first=backend is service.chain.first)
    yield from _aliases(service.chain)
    yield from _log(service)
    if is_ours:
        told = _told(settings.bind)
        yield _running(settings, told)
        settings = replace(settings, **{name: told[name] for name in ("bind", "threads") if name in told})
        yield from _callers(settings)
        yield from _gunicorn(settings)
        yield from _lock()
    else:
        yield Finding("warning", "how your app is served is not known here: its address, threads and timeouts", SERVED)
    yield from _rates(service, settings)
    yield from _threads(settings)
    if any(backend.name == "huggingface" for backend, _ in service.chain.links) and settings.hf_mode == "local":
        yield from _gpu(settings)
        yield from _instructions(settings)
    if nginx:
        yield from _nginx(settings, nginx.read_text("utf-8", "replace"))


def _backend(backend: Backend, *, is_first: bool) -> Iterator[Finding]:
    level = "error" if is_first else "warning"
    if day := SHUTDOWNS.get(backend.model):
        yield _shutdown(backend, day)
    try:
        backend.check(Deadline(CHECK_SECONDS))
        has_model = backend.has_model(Deadline(CHECK_SECONDS))
        listed = [] if has_model else backend.list_models(Deadline(CHECK_SECONDS))
        caveat = backend.caveat(Deadline(CHECK_SECONDS))
        had = "answers, and has" if backend.is_begun else "is not begun, so it is not known whether it can load"
    except Exception as error:
        yield Finding(level, f"{backend.name} can't serve: {reason_of(backend, error)}", REMEDY)
        return
    if has_model:
        yield Finding("ok", f"{backend.name} {had} {backend.model}")
    else:
        some = ", ".join([*listed[:5], "…"])
        yield Finding(level, f"{backend.name} does not list the model {backend.model!r}", f"take one of its: {some}")
    if caveat:
        yield Finding("warning", caveat)


def _aliases(chain: Chain) -> Iterator[Finding]:
    for name, alias in (chain.settings.model_aliases or {}).items():
        link, model = chain.aliased(alias)
        if model is None or Names(link.backend).have(model) is not False:
            yield Finding("ok", f"{name} is {link.backend.name}/{model or link.backend.model}")
        else:
            what = f"{name} stands for {model!r}, which {link.backend.name} does not list"
            yield Finding("warning", what, "set MODEL_ALIASES to a model of /v1/models")


def _shutdown(backend: Backend, day: date) -> Finding:
    gone = day <= date.today()
    level = "error" if gone else "warning" if (day - date.today()).days <= SOON_DAYS else "ok"
    what = f"{backend.model} {'was' if gone else 'will be'} shut down on {day}"
    return Finding(level, what, f"set {backend.name.upper()}_MODEL to one that lives on")


def _log(service: Service) -> Iterator[Finding]:
    path = Path(service.settings.log_file)
    service.log.check()
    if service.log.failure:
        yield Finding("error", service.log.failure, f"give the service's user the right to write to {path.parent}")
        return
    if service.settings.logs_to_stdout:
        yield Finding("ok", "the log goes to standard output, which no command here can read back")
        return
    free = shutil.disk_usage(path.parent).free
    level = "ok" if free > FEW_BYTES else "warning"
    yield Finding(level, f"the log can be written; {free / 2**30:.1f} GiB are free", "rotate it, or make room")
    if path.exists() and path.stat().st_mode & stat.S_IROTH:
        yield Finding("warning", "every user of this machine may read the log", f"chmod o= {path}")
    if _kind_of_mount(path) == "overlay":
        what = "the log is in the container's own layer, and is gone with the container"
        yield Finding("warning", what, f"mount a volume at {path.parent.resolve()}, or set LOG_FILE=/dev/stdout")
    yield from _shipper(path.resolve())


def _shipper(log: Path) -> Iterator[Finding]:
    """Yield the files of rsyslog that ship the log, but not what it is renamed to."""
    for path in sorted(RSYSLOG.glob("*.conf")):
        patterns = re.findall(r'^[^#\n]*?\bfile="([^"]+)"', "\n".join(lines_of(path)), re.MULTILINE | re.IGNORECASE)
        if any(log.match(pattern) for pattern in patterns) and not any(Path(f"{log}.1").match(p) for p in patterns):
            what = f"{path} ships {log.name}, but not {log.name}.1: what is renamed while rsyslog is down is lost"
            yield Finding(
                "warning", what, f'file="{str(log)[:-1]}*[{log.name[-1]}0-9]", as in deploy/rsyslog-sender.conf'
            )


def _kind_of_mount(path: Path) -> str:
    """Return the type of the file system that `path` is on; "" where that can't be told."""
    kinds = {Path(words[4]): words[words.index("-") + 1] for words in map(str.split, lines_of(MOUNTS))}
    return next((kinds[folder] for folder in path.resolve().parents if folder in kinds), "")


def _lock() -> Iterator[Finding]:
    lock = Path("requirements.txt")
    if lock.exists() and "--hash=" not in lock.read_text("utf-8", "replace"):
        what = f"{lock} has no hashes: pip takes whatever is there under the names in it"
        yield Finding("warning", what, "make lock, and install with --require-hashes: docs/dependencies.md")


def _callers(settings: Settings) -> Iterator[Finding]:
    if settings.api_keys:
        yield Finding("ok", f"API_KEYS has {counted(len(settings.api_keys), 'key')}")
    elif settings.is_public:
        who = f"any client that reaches {settings.bind} may use the service"
        yield Finding("error", who, "set API_KEYS (flask llm keys new NAME)")
    else:
        yield Finding("ok", f"no keys; only this machine reaches {settings.bind}")
    if settings.concurrency > settings.threads - 1:
        what = "MAX_CONCURRENCY leaves no thread to refuse requests and to answer /health"
        yield Finding("warning", what, f"set it to {max(1, settings.threads - 2)} or less, or raise THREADS")


def _rates(service: Service, settings: Settings) -> Iterator[Finding]:
    if not settings.rate_limit:
        return
    if settings.rate_limit_storage == "memory://":
        who = "each worker of each pod" if "KUBERNETES_SERVICE_HOST" in os.environ else "each worker"
        yield Finding("warning", f"{who} counts requests for itself", "set RATE_LIMIT_STORAGE=redis://HOST:PORT/0")
    elif not service.rate_limits.storage_answers():
        what = "the storage of the rate limits does not answer"
        yield Finding("error", what, "start it, or correct RATE_LIMIT_STORAGE")
    if not settings.api_keys and not settings.trusted_proxies and not settings.is_public:
        what = "behind a proxy all clients have one address, and share one limit"
        yield Finding("warning", what, "set TRUSTED_PROXIES to the proxy's address, or to unix")


def _told(bind: str) -> dict[str, Any]:
    """Return what the server that runs there tells of its settings, only its backend where it wants a key for more."""
    with suppress(OSError, http.client.HTTPException, LLMAPIError):
        for path in ("/config", "/health"):
            if "backend" in (told := _get(bind, path)):
                return told
    return {}


def _get(bind: str, path: str) -> dict[str, Any]:
    host, _, port = bind.rpartition(":")
    by_name = partial(http.client.HTTPConnection, host.strip("[]"), timeout=CHECK_SECONDS)
    with closing(UnixConnection(port, CHECK_SECONDS) if host == "unix" else by_name(int(port))) as connection:
        connection.request("GET", path, headers={"Host": "localhost"})
        return strict_json.loads(connection.getresponse().read())


def _running(settings: Settings, told: dict[str, Any]) -> Finding:
    here = strict_json.loads(strict_json.dumps(settings.public()).encode())
    here["backend"] = here["llm_backend"]
    both = here.keys() & told.keys() - {"hf_threads"}  # it tells what it took for none
    if others := [f"{name}={told[name]}" for name in both if told[name] != here[name]]:
        what = f"the server at {settings.bind} runs with other settings than these: {', '.join(sorted(others))}"
        return Finding("warning", what, "run this with the same environment as the server, or restart that")
    if not told:
        return Finding("ok", f"this service does not answer at {settings.bind}, so this is of the settings alone")
    how = "these settings" if "bind" in told else "this backend; the rest of its settings needs a key"
    return Finding("ok", f"the server at {settings.bind} runs with {how}")


def _gunicorn(settings: Settings) -> Iterator[Finding]:
    command = [sys.executable, "-m", "gunicorn", "--print-config", "wsgi:app"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (no word of it from outside)
    said = dict(re.findall(r"^(\w+) += (.*)$", ran.stdout, re.MULTILINE))
    if ran.returncode:  # without its file gunicorn shows its own defaults
        yield Finding("warning", "gunicorn does not show its configuration here", "run this where wsgi.py is")
        return
    graceful = float(said["graceful_timeout"])
    if graceful <= settings.request_timeout:
        what = f"a stopping worker has {graceful:g} s, a request {settings.request_timeout:g} s"
        yield Finding("error", what, "raise graceful_timeout above REQUEST_TIMEOUT")
    else:
        yield Finding("ok", f"a stopping worker waits {graceful:g} s for its requests; give its supervisor 10 s more")


def _threads(settings: Settings) -> Iterator[Finding]:
    cores = usable_cores()
    if (settings.hf_threads or 0) > cores:
        what = f"HF_THREADS={settings.hf_threads}, but {cores} cores may be used: threads wait for each other"
        yield Finding("warning", what, "leave HF_THREADS unset")


def _gpu(settings: Settings) -> Iterator[Finding]:
    if not any(Path(device).exists() for device in GPUS):
        return
    package = _package(settings)
    if "True" in _said(package, COMPUTES_ON_GPU[package]):
        yield Finding("ok", f"{package} computes on the GPU")
    else:
        yield Finding("warning", f"this machine has a GPU, but {package} computes without it", WHEEL)


def _instructions(settings: Settings) -> Iterator[Finding]:
    has = next((line.split() for line in lines_of(CPUINFO) if line.startswith(("flags", "Features"))), [])
    said = _said("xllamacpp", "xllamacpp.get_system_info()") if has and _package(settings) == "xllamacpp" else ""
    if not said:
        return
    if missing := [ours for name, ours in INSTRUCTIONS.items() if name in has and f"{ours} = 1" not in said]:
        what = f"xllamacpp computes without {', '.join(missing)}, which this processor has"
        how = "its wheel is for all machines; its README (Installation) says how to build it for this one"
        yield Finding("warning", what, how)
    else:
        yield Finding("ok", "xllamacpp computes with the best instructions of this processor")


def _package(settings: Settings) -> str:
    return "xllamacpp" if "gguf" in (settings.hf_model or "gguf").lower() else "torch"


def _said(package: str, expression: str) -> str:
    command = [sys.executable, "-c", f"import {package}; print({expression})"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  (none from outside)


def _nginx(settings: Settings, text: str) -> Iterator[Finding]:
    text = re.sub(r"#.*", "", text)
    waits = min([_seconds(said) for said in re.findall(r"proxy_read_timeout\s+(\w+)\s*;", text)], default=60)
    if waits <= settings.request_timeout:
        what = f"nginx waits {waits:g} s for an answer, which may take {settings.request_timeout:g} s"
        yield Finding("error", what, f"proxy_read_timeout {settings.request_timeout + 10:g}s;")
    takes = min([_bytes(said) for said in re.findall(r"client_max_body_size\s+(\w+)\s*;", text)], default=2**20)
    if takes < settings.max_body_bytes:
        what = f"nginx takes bodies of {takes:,} bytes, the service {settings.max_body_bytes:,}"
        yield Finding("error", what, f"client_max_body_size {settings.max_body_bytes};")
    yield Finding("ok", "nginx's configuration is read")


def _seconds(said: str) -> float:
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd]|)", said))


def _bytes(said: str) -> float:
    found = re.fullmatch(r"(\d+)([kmg]?)", said.lower())
    size = int(found[1]) * 1024 ** " kmg".index(found[2] or " ") if found else 0
    return size or math.inf  # 0 is nginx's word for any size
