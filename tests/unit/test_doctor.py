"""flask llm doctor: what it finds, how bad that is, how to mend it, and its exit code."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from asking import Serve
from fakes import Fake
from flask import Flask
from limits.storage import MemoryStorage
from providers import CLAUDE, HUGGING_FACE, OLLAMA, OPENAI, FarEnd, Provider
from werkzeug.serving import make_server

from llm_api import LLMAPI
from llm_api.errors import Unreachable
from llm_api.rules import ApiKey

ROOT = Path(__file__).parents[2]
NGINX = ROOT / "deploy" / "nginx.conf"
KEYS = (ApiKey("alice", "0" * 64), ApiKey("bob", "1" * 64))


class Finding(NamedTuple):
    level: str
    what: str
    mend: str = ""


class Report(NamedTuple):
    findings: list[Finding]
    exit_code: int

    def about(self, word: str) -> list[Finding]:
        return [finding for finding in self.findings if word in finding.what]


def examine(app: Flask, *args: object) -> Report:
    """Run the command and read what it prints."""
    shown = app.test_cli_runner().invoke(args=["llm", "doctor", *map(str, args)])
    assert isinstance(shown.exception, SystemExit | None), shown.exception
    found: list[Finding] = []
    for line in shown.output.splitlines():
        level, text = line[:9].strip(), line[9:]
        if level:
            assert level in ("ok", "warning", "error"), shown.output
            found.append(Finding(level, text))
        else:
            found[-1] = found[-1]._replace(mend=text)
    return Report(found, shown.exit_code)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is peculiar to this machine is not looked at."""
    monkeypatch.setattr("llm_api.cli.doctor.log.MOUNTS", Path("/dev/null"))  # the tests may run in a container
    monkeypatch.setattr("llm_api.cli.doctor.log.RSYSLOG", Path("/dev/null"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("llm_api.cli.doctor.server.told", lambda bind: {})  # a developer's own may run at the default


@pytest.fixture
def doctor(serve: Serve, gunicorn: dict[str, str], nowhere: None) -> Callable[..., Report]:
    """Return a function that examines an app with these backends and settings."""

    def look(*backends: Fake, args: tuple[object, ...] = (), **settings: Any) -> Report:
        chain = backends or (Fake("one"),)
        return examine(serve(*chain, **settings).application, *args)

    return look


Doctor = Callable[..., Report]


def test_all_is_well(doctor: Doctor, log_path: Path) -> None:
    """A deployment without trouble: a line for each thing that was looked at, no mend, exit code 0."""
    report = doctor(args=("--nginx", NGINX))
    assert report.exit_code == 0
    assert {(finding.level, finding.mend) for finding in report.findings} == {("ok", "")}
    assert [finding.what.split(";")[0] for finding in report.findings] == [
        "one answers, and has one-model",
        "the log can be written",
        "this service does not answer at 127.0.0.1:8000, so this is of the settings alone",
        "no keys",
        "a stopping worker waits 130 s for its requests",
        "nginx's configuration is read",
    ]


def test_aliases(doctor: Doctor) -> None:
    """Each says what stands behind it; a model that its backend does not list is a warning."""
    aliases = {"gpt-4o": "default", "gpt-5": "two/b", "gpt-6": "two/c", "*": "three/x"}
    report = doctor(Fake("one"), Fake("two", models=["b", "two-model"]), model_aliases=aliases)
    found = [(finding.level, finding.what.split(",")[0]) for finding in report.findings if " is " in finding.what]
    found = [(level, what) for level, what in found if what.split()[0] in aliases]
    assert found == [("ok", "gpt-4o is one/one-model"), ("ok", "gpt-5 is two/b")]
    warned = [finding.what for finding in report.about("stands for")]
    assert warned == [
        "gpt-6 stands for 'two/c', which one does not list",
        "* stands for 'three/x', which one does not list",
    ]


@pytest.mark.parametrize(
    ("settings", "code"), [({}, 0), ({"rate_limit": "1/minute"}, 0), ({"bind": "0.0.0.0:80"}, 1)], ids=str
)
def test_exit_code(doctor: Doctor, settings: dict[str, Any], code: int) -> None:
    """1 where there is an error; a warning alone is none."""
    report = doctor(**settings)
    assert report.exit_code == code
    assert ("error" in {finding.level for finding in report.findings}) == bool(code)


# Backends

ONE, TWO = (("ok", f"{name} answers, and has {name}-model") for name in ("one", "two"))


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (None, None, [ONE, TWO]),
        (Unreachable("no way"), None, [("error", "one can't serve: no way"), TWO]),
        (None, Unreachable("no way"), [ONE, ("warning", "two can't serve: no way")]),
    ],
)
def test_backends(doctor: Doctor, one: Any, two: Any, expected: list[tuple[str, str]]) -> None:
    """Each of the chain is asked; trouble of the first is an error, of a fallback a warning."""
    backends = Fake("one", trouble=one), Fake("two", trouble=two)
    report = doctor(*backends)
    assert [finding[:2] for finding in report.findings[:2]] == expected
    mends = {finding.mend for finding in report.findings[:2] if finding.level != "ok"}
    assert mends <= {"start it, or correct its settings"}
    assert [len(backend.asked) for backend in backends] == [0, 0]


def test_a_check_with_a_bug(doctor: Doctor) -> None:
    """The rest is looked at all the same, and no text of the exception is shown."""
    report = doctor(Fake("one", trouble=RuntimeError("canary")))
    assert report.findings[0][:2] == ("error", "one can't serve: its check broke (RuntimeError)")
    assert len(report.findings) == 5


@pytest.mark.parametrize(
    ("model", "models", "found"),
    [
        ("m", ("m",), ("ok", "one answers, and has m")),
        ("llama2", ("llama2:latest",), ("ok", "one answers, and has llama2")),
        ("llama2:latest", ("llama2",), ("ok", "one answers, and has llama2:latest")),
        (
            "llama2",
            ("llama2:7b", "x"),
            ("error", "one does not list the model 'llama2'", "take one of its: llama2:7b, x, …"),
        ),
        ("m", tuple("abcdefg"), ("error", "one does not list the model 'm'", "take one of its: a, b, c, d, e, …")),
        ("m", (), ("error", "one does not list the model 'm'", "take one of its: …")),
    ],
)
def test_models(doctor: Doctor, model: str, models: tuple[str, ...], found: tuple[str, ...]) -> None:
    """The configured model is in the backend's list, or some are named that are."""
    assert doctor(Fake("one", model=model, models=models)).findings[0] == Finding(*found)


@pytest.mark.parametrize(
    ("provider", "model", "listed", "level"),
    [
        (HUGGING_FACE, "org/x:groq", "org/x", "ok"),
        (HUGGING_FACE, "org/x:fastest", "org/x", "ok"),
        (HUGGING_FACE, "org/x", "org/x:groq", "error"),
        (HUGGING_FACE, "org/x:groq", "org/x:together", "error"),
        (HUGGING_FACE, "org/y:groq", "org/x", "error"),
        (OPENAI, "llama3:latest", "llama3", "ok"),
        (OPENAI, "llama3", "llama3:latest", "ok"),
        (OPENAI, "llama3:7b", "llama3", "error"),
        (OPENAI, "x:groq", "x", "error"),
        (CLAUDE, "claude-haiku-5-5", "claude-haiku-5-5-20260801", "ok"),
        (CLAUDE, "claude-haiku-5-5-20260801", "claude-haiku-5-5-20260802", "error"),
        (CLAUDE, "claude-haiku-5-5-20260801", "claude-haiku-5-5", "error"),
        (CLAUDE, "claude-haiku", "claude-haiku-5-5-20260801", "error"),
    ],
)
@pytest.mark.usefixtures("gunicorn", "nowhere")
def test_all_names_of_a_model(
    make_app: Callable[..., Flask], provider: Provider, model: str, listed: str, level: str
) -> None:
    """A tag that goes without saying, the router's provider, an alias without its date: each backend knows its own."""
    with FarEnd(assert_all_requests_are_fired=False) as far_end:
        far_end.get(provider.models_url, json={"data": [{"id": listed, "providers": [{"provider": "groq"}]}]})
        named = {"huggingface": "hf_model"}.get(provider.name, f"{provider.name}_model")
        report = examine(make_app(**provider.settings | {named: model}))
    assert (report.findings[0].level, model in report.findings[0].what) == (level, True)


@pytest.mark.parametrize("model", ["gemma4", "gemma4:latest"])
@pytest.mark.usefixtures("gunicorn", "nowhere")
def test_ollama_knows_its_names(make_app: Callable[..., Flask], model: str) -> None:
    """Whichever way OLLAMA_MODEL is written."""
    with FarEnd(assert_all_requests_are_fired=False) as far_end:
        far_end.get(OLLAMA.models_url, json={"models": [{"name": "gemma4:latest", "model": "gemma4:latest"}]})
        far_end.post(f"{OLLAMA.base}/api/show", json={"capabilities": ["completion"]})
        report = examine(make_app(**OLLAMA.settings | {"ollama_model": model}))
    assert report.findings[0][:2] == ("ok", f"ollama answers, and has {model}")


@pytest.mark.parametrize("provider", [OLLAMA, OPENAI, CLAUDE, HUGGING_FACE], ids=str)
@pytest.mark.usefixtures("gunicorn", "nowhere")
def test_real_backends(make_app: Callable[..., Flask], provider: Provider) -> None:
    """Each one is found to answer, or not to, by its free routes: nothing is generated."""
    with FarEnd(assert_all_requests_are_fired=False) as far_end:
        far_end.get(
            provider.models_url, json={"data": [{"id": "far-1"}], "models": [{"name": "far-1", "model": "far-1"}]}
        )
        far_end.post(f"{provider.base}/api/show", status=404, json={"error": "model 'llama2' not found"})
        report = examine(make_app(**provider.settings))
        assert provider.url not in {call.request.url for call in far_end.calls}
    assert report.findings[0].level == "error"
    with FarEnd(assert_all_requests_are_fired=False) as far_end:  # nobody is there
        report = examine(make_app(**provider.settings))
    assert report.findings[0] == Finding(
        "error",
        f"{provider.name} can't serve: {provider.name} can't be reached: no connection",
        "start it, or correct its settings",
    )


@pytest.mark.parametrize("model", ["SMOL", "library/smol", "smol:latest"])
@pytest.mark.usefixtures("gunicorn", "nowhere")
def test_ollama_knows_a_model_by_its_other_names(make_app: Callable[..., Flask], model: str) -> None:
    """Ollama says whether it has a model; how its list writes the name is no matter."""
    with FarEnd() as far_end:
        far_end.post(f"{OLLAMA.base}/api/show", json={"capabilities": ["completion"]})
        report = examine(make_app(**OLLAMA.settings, ollama_model=model))
    assert report.findings[0] == Finding("ok", f"ollama answers, and has {model}")


@pytest.mark.usefixtures("gunicorn", "nowhere")
def test_ollama_behind_openai(make_app: Callable[..., Flask]) -> None:
    """An Ollama that is asked over OpenAI's wire serves, and a warning names the backend that is meant for it."""
    with FarEnd() as far_end:
        far_end.get("http://box.example:9/v1/models", json={"data": [{"id": "smol:latest"}]})
        far_end.get("http://box.example:9/api/version", json={"version": "0.24.0"})
        base = "http://box.example:9/v1"
        report = examine(make_app(llm_backend="openai", openai_model="smol", openai_base_url=base))
    assert report.findings[0] == Finding("ok", "openai answers, and has smol")
    assert report.findings[1].level == "warning"
    assert "silently cuts a prompt" in report.findings[1].what
    assert "LLM_BACKEND=ollama" in report.findings[1].what
    assert report.exit_code == 0


@pytest.mark.usefixtures("gunicorn", "nowhere")
def test_a_missing_key(make_app: Callable[..., Flask]) -> None:
    """It says which variable is to be set."""
    report = examine(make_app(llm_backend="openai"))
    assert report.exit_code == 1
    assert "OPENAI_API_KEY=" in report.findings[0].what


# Models that are shut down


@pytest.mark.parametrize(
    ("model", "today", "level", "words"),
    [
        ("gpt-3.5-turbo", date(2026, 11, 23), "error", "was shut down on 2026-10-23"),
        ("gpt-4o", date(2026, 10, 15), "ok", "will be shut down on 2027-01-14"),
        ("gpt-4o", date(2026, 10, 16), "warning", "will be shut down on 2027-01-14"),
        ("gpt-4o", date(2027, 1, 13), "warning", "will be shut down on 2027-01-14"),
        ("gpt-4o", date(2027, 1, 14), "error", "was shut down on 2027-01-14"),
        ("claude-3-sonnet-20240229", date(2026, 11, 23), "error", "was shut down on 2025-07-21"),
        ("claude-sonnet-4-5", date(2026, 11, 23), "warning", "will be shut down on 2026-11-30"),
        ("o4-mini", date(2026, 11, 23), "error", "was shut down on 2026-10-23"),
    ],
)
def test_shutdown(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, model: str, today: date, level: str, words: str
) -> None:
    """90 days before it is a warning, from the day on an error; it is found without asking the backend."""

    class Frozen(date):
        @classmethod
        def today(cls) -> date:  # type: ignore[override]
            return today

    monkeypatch.setattr("llm_api.cli.doctor.backends.date", Frozen)
    backend = Fake("openai", model=model)
    backend.trouble = Unreachable("m")
    mend = "" if level == "ok" else "set OPENAI_MODEL to one that lives on"
    assert doctor(backend).about("shut down") == [Finding(level, f"{model} {words}", mend)]


@pytest.mark.parametrize("provider", [OPENAI, CLAUDE], ids=str)
def test_the_default_models_live_on(make_app: Callable[..., Flask], doctor: Doctor, provider: Provider) -> None:
    """No date is known for what one gets without a setting."""
    model = LLMAPI.of(make_app(**provider.settings)).chain.first.model
    assert doctor(Fake(provider.name, model=model)).about("shut down") == []


# The log


def test_a_log_that_cannot_be_written(doctor: Doctor, log_path: Path) -> None:
    """An error, with the folder whose rights are to be mended."""
    log_path.parent.write_text("a file where the folder should be")
    (finding,) = doctor().about("log")
    assert finding[::2] == ("error", f"give the service's user the right to write to {log_path.parent}")
    assert finding.what.startswith("log.jsonl can't be written: ")


@pytest.mark.parametrize(
    ("mounts", "warns"),
    [
        ({"/": "overlay", "/proc": "proc"}, True),
        ({"/": "overlay", "LOGS": "ext4"}, False),
        ({"/": "ext4", "/var/lib/docker/overlay2/x/merged": "overlay"}, False),
        ({"/": "ext4"}, False),
        ({}, False),
    ],
)
def test_a_log_that_goes_with_its_container(
    doctor: Doctor, log_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounts: dict[str, str], warns: bool
) -> None:
    """A warning where no volume holds the log's folder."""
    folder = log_path.parent.resolve()
    lines = [f"1 2 0:3 / {where.replace('LOGS', str(folder))} rw - {kind} x rw" for where, kind in mounts.items()]
    (tmp_path / "mounts").write_text("\n".join(lines))
    monkeypatch.setattr("llm_api.cli.doctor.log.MOUNTS", tmp_path / "mounts")
    what = "the log is in the container's own layer, and is gone with the container"
    said = Finding("warning", what, f"mount a volume at {folder}, or set LOG_FILE=/dev/stdout")
    assert doctor().about("container") == ([said] if warns else [])


@pytest.mark.parametrize(
    ("pattern", "warns"),
    [
        ("LOGS/log.jsonl", True),
        ("LOGS/*.jsonl", True),
        ("LOGS/log.json*[l0-9]", False),
        ("LOGS/log.jsonl*", False),
        ("/elsewhere/log.jsonl", False),
    ],
)
def test_a_shipper_that_misses_what_is_renamed(
    doctor: Doctor, log_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pattern: str, warns: bool
) -> None:
    """A warning with the name that takes both, which the sender in deploy/ has; of other logs nothing is said."""
    sender = (ROOT / "deploy" / "rsyslog-sender.conf").read_text()
    ours = "/srv/llm-api/logs/log.json*[l0-9]"
    assert ours in sender
    folder = str(log_path.parent.resolve())
    (tmp_path / "llm-api.conf").write_text(sender.replace(ours, pattern.replace("LOGS", folder)))
    monkeypatch.setattr("llm_api.cli.doctor.log.RSYSLOG", tmp_path)
    mend = f'file="{folder}/log.json*[l0-9]", as in deploy/rsyslog-sender.conf'
    assert [finding.mend for finding in doctor().about("is renamed")] == [mend] * warns


@pytest.mark.parametrize(
    ("text", "warns"), [("flask==3.1.2\n", True), ("flask==3.1.2 \\\n    --hash=sha256:0\n", False), (None, False)]
)
def test_a_lock_without_hashes(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, warns: bool
) -> None:
    """A warning where pip would install whatever an index has under those names."""
    monkeypatch.chdir(tmp_path)
    if text:
        Path("requirements.txt").write_text(text)
    assert [finding.level for finding in doctor().about("has no hashes")] == ["warning"] * warns


@pytest.mark.parametrize(("mode", "warns"), [(0o640, False), (0o600, False), (0o644, True), (0o604, True)])
def test_who_may_read_the_log(doctor: Doctor, log_path: Path, mode: int, warns: bool) -> None:
    """It holds what people said: a warning where everybody on the machine may read it."""
    log_path.parent.mkdir()
    log_path.touch()
    log_path.chmod(mode)
    said = Finding("warning", "every user of this machine may read the log", f"chmod o= {log_path}")
    assert doctor().about("read the log") == ([said] if warns else [])


@pytest.mark.parametrize(("free", "level"), [(2**30 + 1, "ok"), (2**30, "warning"), (0, "warning")])
def test_room(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    """A gibibyte or less is a warning."""
    usage = shutil.disk_usage(ROOT)._replace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    (finding,) = doctor().about("the log can be written")
    what = f"the log can be written; {free / 2**30:.1f} GiB are free"
    assert finding == Finding(level, what, "" if level == "ok" else "rotate it, or make room")


# Who may ask, and how often


@pytest.mark.parametrize(
    ("settings", "level", "what"),
    [
        ({}, "ok", "no keys; only this machine reaches 127.0.0.1:8000"),
        *(
            ({"bind": bind}, "ok", f"no keys; only this machine reaches {bind}")
            for bind in ("unix:/run/x.sock", "localhost:80", "[::1]:80")
        ),
        *(
            ({"bind": bind}, "error", f"any client that reaches {bind} may use the service")
            for bind in ("0.0.0.0:80", "[::]:80", "192.168.1.5:80", "llm.example.com:80")
        ),
        ({"bind": "0.0.0.0:80", "api_keys": KEYS}, "ok", "API_KEYS has 2 keys"),
        ({"api_keys": KEYS}, "ok", "API_KEYS has 2 keys"),
    ],
    ids=str,
)
def test_keys(doctor: Doctor, settings: dict[str, Any], level: str, what: str) -> None:
    """Without keys on an address that others reach is an error."""
    mend = "" if level == "ok" else "set API_KEYS (flask llm keys new NAME)"
    assert Finding(level, what, mend) in doctor(**settings).findings


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({}, None),
        ({"threads": 2}, None),
        ({"threads": 8, "max_concurrency": 7}, None),
        ({"threads": 8, "max_concurrency": 8}, "set it to 6 or less, or raise THREADS"),
        ({"threads": 2, "max_concurrency": 2}, "set it to 1 or less, or raise THREADS"),
        ({"threads": 1}, "set it to 1 or less, or raise THREADS"),
    ],
    ids=str,
)
def test_concurrency(doctor: Doctor, settings: dict[str, Any], mend: str | None) -> None:
    """A thread must be left that refuses what is too much; what is proposed is a valid setting."""
    what = "MAX_CONCURRENCY leaves no thread to refuse requests and to answer /health"
    assert doctor(**settings).about("MAX_CONCURRENCY") == ([Finding("warning", what, mend)] if mend else [])


@pytest.mark.parametrize(
    ("model", "package"),
    [
        *((model, "xllamacpp") for model in (None, "o/n-GGUF", "o/n:Q4_K_M", "{}")),
        *((model, "torch") for model in ("o/n", "{}/empty", "{}/a:b", "n" * 300)),
    ],
)
@pytest.mark.parametrize("computes", [True, False])
def test_gpu(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str | None, package: str, computes: bool
) -> None:
    """A GPU that the installed wheel leaves alone is said, with where to read which one to install."""
    monkeypatch.setattr("llm_api.cli.doctor.machine.GPUS", (str(tmp_path),))
    (tmp_path / "model.gguf").touch()
    (tmp_path / "a:b").mkdir()
    gunicorn = subprocess.run

    def run(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        if "get_system_info" in command[-1]:
            return subprocess.CompletedProcess(command, 0, "", "")
        is_asked = f"import {package};" in command[-1]
        return subprocess.CompletedProcess(command, 0, f"{computes}\n", "") if is_asked else gunicorn(command, **kwargs)

    monkeypatch.setattr("subprocess.run", run)

    [finding] = doctor(Fake("huggingface"), hf_model=model and model.format(tmp_path)).about("GPU")

    assert package in finding.what
    assert finding.level == ("ok" if computes else "warning")
    assert computes or "docs/local-model.md" in finding.mend


def test_machine_without_a_gpu(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, and nothing said."""
    monkeypatch.setattr("llm_api.cli.doctor.machine.GPUS", ())
    assert not doctor(Fake("huggingface"), hf_model="owner/name").about("GPU")


FLAGS = "processor : 0\nflags : fpu avx avx2 fma f16c avx512f avx512_vnni\n"
BUILT = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | REPACK = 1 | "


@pytest.mark.parametrize(
    ("flags", "built", "found"),
    [
        (FLAGS, BUILT, "xllamacpp computes without AVX512, AVX512_VNNI, which this processor has"),
        (FLAGS, BUILT.replace("AVX2 = 1", "AVX2 = 0"), "xllamacpp computes without AVX2, AVX512, AVX512_VNNI, which"),
        (FLAGS, BUILT + "AVX512 = 1 | AVX512_VNNI = 1 | ", "with the best instructions"),
        ("flags : fpu avx avx2 fma f16c\n", BUILT, "with the best instructions"),
        ("Features : fp asimd asimddp sve\n", "CPU : NEON = 1 | DOTPROD = 1 | ", "computes without SVE, which"),
        ("", BUILT, None),
        (FLAGS, "", None),
    ],
)
def test_instructions(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, built: str, found: str | None
) -> None:
    """A wheel that leaves out what the processor is fast with is said, and where to read how to have it."""
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr("llm_api.cli.doctor.machine.CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("llm_api.cli.doctor.machine.GPUS", ())
    gunicorn = subprocess.run

    def run(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        is_asked = "get_system_info" in command[-1]
        return subprocess.CompletedProcess(command, 0, built, "") if is_asked else gunicorn(command, **kwargs)

    monkeypatch.setattr("subprocess.run", run)

    about = doctor(Fake("huggingface")).about("xllamacpp computes")

    assert [found in finding.what for finding in about if found] == ([True] if found else [])
    assert found or not about
    assert all(finding.level == "ok" or "README" in finding.mend for finding in about)
    assert not doctor(Fake("huggingface"), hf_model="owner/name").about("xllamacpp computes")


REDIS = {"rate_limit": "1/minute", "rate_limit_storage": "redis://:canary-password@127.0.0.1:1/0"}
SHARED = Finding(
    "warning",
    "behind a proxy all clients have one address, and share one limit",
    "set TRUSTED_PROXIES to the proxy's address, or to unix",
)
ALONE = Finding("warning", "each worker counts requests for itself", "set RATE_LIMIT_STORAGE=redis://HOST:PORT/0")
SILENT = Finding("error", "the storage of the rate limits does not answer", "start it, or correct RATE_LIMIT_STORAGE")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"rate_limit_storage": REDIS["rate_limit_storage"]}, []),
        ({"rate_limit": "1/minute"}, [ALONE, SHARED]),
        ({"rate_limit": "1/minute", "api_keys": KEYS}, [ALONE]),
        ({"rate_limit": "1/minute", "trusted_proxies": (None,)}, [ALONE]),
        ({"rate_limit": "1/minute", "bind": "0.0.0.0:80"}, [ALONE]),
        (REDIS | {"api_keys": KEYS}, [SILENT]),
        (REDIS, [SILENT, SHARED]),
    ],
    ids=str,
)
def test_rates(doctor: Doctor, settings: dict[str, Any], expected: list[Finding]) -> None:
    """Counting apart, a storage that is away, one count for all clients of a proxy."""
    assert [f for f in doctor(**settings).findings if f in (ALONE, SHARED, SILENT)] == expected


def test_rates_of_pods(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Kubernetes there are several machines, however few workers each has."""
    said = Finding("warning", "each worker of each pod counts requests for itself", ALONE.mend)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert said in doctor(rate_limit="1/minute").findings


def test_a_storage_that_answers(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that is there is no finding."""
    monkeypatch.setattr("limits.storage.storage_from_string", lambda *args, **kwargs: MemoryStorage())
    assert doctor(**REDIS, api_keys=KEYS).about("storage") == []


# gunicorn and nginx

LONGER = "raise graceful_timeout above REQUEST_TIMEOUT"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Finding("ok", "a stopping worker waits 130 s for its requests; give its supervisor 10 s more")),
        ({"graceful_timeout": "120"}, Finding("error", "a stopping worker has 120 s, a request 120 s", LONGER)),
        ({"graceful_timeout": "30"}, Finding("error", "a stopping worker has 30 s, a request 120 s", LONGER)),
    ],
)
def test_gunicorn(doctor: Doctor, gunicorn: dict[str, str], changes: dict[str, str], expected: Finding) -> None:
    """A worker that stops waits longer than a request may take, and no model is loaded before the fork."""
    gunicorn.update(changes)
    assert expected in doctor().findings


@pytest.mark.parametrize("folder", [ROOT, None], ids=["here", "elsewhere"])
def test_gunicorns_own_word(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path | None) -> None:
    """gunicorn itself is asked, where wsgi.py is; elsewhere the doctor says where to run it."""
    monkeypatch.chdir(folder or tmp_path)
    for name in [name for name in os.environ if name.startswith("PROMETHEUS_") or name == "LLM_API_METRICS_OWNER"]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may find wsgi.py from anywhere
    monkeypatch.setenv("REQUEST_TIMEOUT", "33")
    report = examine(serve(Fake("one"), request_timeout=33.0).application)
    if folder:
        assert report.about("a stopping worker waits 43 s")[0].level == "ok"
    else:
        said = Finding("warning", "gunicorn does not show its configuration here", "run this where wsgi.py is")
        assert said in report.findings


# The server that runs


@pytest.fixture(params=["tcp", "unix"])
def serving(request: pytest.FixtureRequest) -> Iterator[Callable[[Flask], str]]:
    """Return a starter of real servers, at a port or a socket, which tells the address for BIND."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())  # pytest's own is too long for a socket

        def start(app: Flask) -> str:
            host = "127.0.0.1" if request.param == "tcp" else f"unix://{folder}/sock"
            server = make_server(host, 0, app, threaded=True)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            return f"127.0.0.1:{server.port}" if request.param == "tcp" else f"unix:{folder}/sock"

        yield start


@pytest.mark.usefixtures("gunicorn")
@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, Finding("ok", "the server at BIND runs with these settings")),
        (
            {"llm_backend": "stub", "threads": 4},
            Finding(
                "warning",
                "the server at BIND runs with other settings than these: backend=stub, threads=4",
                "run this with the same environment as the server, or restart that",
            ),
        ),
        (
            {"api_keys": KEYS},
            Finding("ok", "the server at BIND runs with this backend; the rest of its settings needs a key"),
        ),
        (
            {"api_keys": KEYS, "llm_backend": "stub"},
            Finding(
                "warning",
                "the server at BIND runs with other settings than these: backend=stub",
                "run this with the same environment as the server, or restart that",
            ),
        ),
    ],
    ids=str,
)
def test_the_server_that_runs(
    make_app: Callable[..., Flask], serving: Callable[[Flask], str], other: dict[str, Any], said: Finding
) -> None:
    """The doctor asks the server at BIND, and says where it has other settings than those that are looked at."""
    app = make_app(llm_backend="replay")
    bind = serving(app)
    service = LLMAPI.of(app)
    service.settings = replace(service.settings, bind=bind, **other)
    report = examine(make_app(llm_backend="replay", bind=bind))
    (finding,) = report.about("the server at")
    assert finding._replace(what=finding.what.replace(bind, "BIND")) == said


@pytest.mark.usefixtures("gunicorn")
def test_the_address_that_is_served(make_app: Callable[..., Flask], serving: Callable[[Flask], str]) -> None:
    """gunicorn -b 0.0.0.0 is judged as what it is, whatever BIND says."""
    app = make_app()
    bind = serving(app)
    LLMAPI.of(app).settings = replace(LLMAPI.of(app).settings, bind="0.0.0.0:80", threads=1)
    report = examine(make_app(bind=bind))
    assert report.about("any client that reaches 0.0.0.0:80")[0].level == "error"
    assert report.about("MAX_CONCURRENCY leaves no thread")


@pytest.mark.usefixtures("gunicorn")
@pytest.mark.parametrize("body", ["hello", "[]", '{"status": "UP"}'])
def test_another_program_at_the_address(
    make_app: Callable[..., Flask], serving: Callable[[Flask], str], body: str
) -> None:
    """What isn't this service tells nothing."""
    other = Flask("other")
    other.add_url_rule("/<path>", view_func=lambda path: body)
    assert examine(make_app(bind=serving(other))).about("this service does not answer at")


def test_a_host_app(tmp_path: Path) -> None:
    """Of an app of somebody else's the doctor says that it does not know how it is served, and guesses nothing."""
    app = Flask("host")
    LLMAPI(app, url_prefix="/llm", llm_backend="stub", log_file=str(tmp_path / "log.jsonl"), bind="0.0.0.0:80")
    report = examine(app)
    (finding,) = report.about("how your app is served is not known")
    assert (finding.level, finding.mend) == ("warning", "docs/flask.md says what your gunicorn needs")
    assert not report.about("0.0.0.0")
    assert not report.about("stopping worker")


READ = Finding("ok", "nginx's configuration is read")


def nginx_waits(seconds: str, mend: str = "proxy_read_timeout 130s;") -> Finding:
    return Finding("error", f"nginx waits {seconds} s for an answer, which may take 120 s", mend)


def nginx_takes(size: str) -> Finding:
    what = f"nginx takes bodies of {size} bytes, the service 1,048,576"
    return Finding("error", what, "client_max_body_size 1048576;")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"proxy_read_timeout {time};", []) for time in ("130s", "121", "3m", "2m10s", "1h", "1w", "121000ms")),
        ("", [nginx_waits("60")]),
        ("proxy_read_timeout 120s;", [nginx_waits("120")]),
        ("proxy_read_timeout 1m30s;", [nginx_waits("90")]),
        ("proxy_read_timeout 500ms;", [nginx_waits("0.5")]),
        ("proxy_read_timeout   30 ;", [nginx_waits("30")]),
        ("# proxy_read_timeout 130s;", [nginx_waits("60")]),
        ("proxy_read_timeout 130s;\nlocation /x { proxy_read_timeout 10s; }", [nginx_waits("10")]),
        *(
            (f"proxy_read_timeout 130s; client_max_body_size {size};", [])
            for size in ("1m", "1048576", "2M", "1g", "0")
        ),
        ("proxy_read_timeout 130s; client_max_body_size 100k;", [nginx_takes("102,400")]),
        ("proxy_read_timeout 130s; client_max_body_size 1000000;", [nginx_takes("1,000,000")]),
        (
            "proxy_read_timeout 130s; client_max_body_size 0; location /x {client_max_body_size 1k;}",
            [nginx_takes("1,024")],
        ),
        ("client_max_body_size 8k; # of old", [nginx_waits("60"), nginx_takes("8,192")]),
    ],
)
def test_nginx(doctor: Doctor, tmp_path: Path, text: str, expected: list[Finding]) -> None:
    """It waits longer than a request may take, and takes what the service takes; what it does by itself counts too."""
    path = tmp_path / "site.conf"
    path.write_text(f"server {{ {text}\n}}\n")
    report = doctor(args=("--nginx", path), max_body_bytes=1_048_576)
    assert report.about("nginx") == [*expected, READ]
    assert report.exit_code == bool(expected)


def test_nginx_and_larger_bodies(doctor: Doctor, tmp_path: Path) -> None:
    """Without a word of it nginx takes a mebibyte; the mends are the settings' own numbers."""
    path = tmp_path / "site.conf"
    path.write_text("proxy_read_timeout 130s;")
    (finding, read) = doctor(args=("--nginx", path), max_body_bytes=2_000_000).about("nginx")
    what = "nginx takes bodies of 1,048,576 bytes, the service 2,000,000"
    assert (finding, read) == (Finding("error", what, "client_max_body_size 2000000;"), READ)
    report = doctor(args=("--nginx", path), request_timeout=300.0)
    assert report.about("which may take 300 s")[0].mend == "proxy_read_timeout 310s;"


def test_nginx_in_any_encoding(doctor: Doctor, tmp_path: Path) -> None:
    """A comment in another encoding is no trouble."""
    path = tmp_path / "site.conf"
    path.write_bytes("proxy_read_timeout 130s; client_max_body_size 8m; # f\xfcr uns".encode("latin-1"))
    assert doctor(args=("--nginx", path)).about("nginx") == [READ]


def test_a_missing_nginx_file(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    """A file that is not there is a mistake in the command."""
    shown = make_app().test_cli_runner().invoke(args=["llm", "doctor", "--nginx", str(tmp_path / "none")])
    assert shown.exit_code == 2


# Kubernetes and Compose

KUBERNETES, COMPOSE = ROOT / "deploy" / "kubernetes.yaml", ROOT / "deploy" / "compose.yaml"


def manifest(folder: Path, kind: Path, changes: dict[str, str]) -> Path:
    """Write one of deploy/'s files with some of its text replaced."""
    text = kind.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / kind.name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (KUBERNETES, "kubernetes.yaml: read, with pod of llm-api"),
        (COMPOSE, "compose.yaml: read, with container of llm-api"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_our_own_manifests(doctor: Doctor, kind: Path, found: str) -> None:
    """Nothing is wrong with those in deploy/."""
    report = doctor(args=("--manifest", kind), rate_limit="1/minute", api_keys=KEYS)
    assert report.exit_code == 0
    assert [finding for finding in report.findings if "llm-api" in finding.what] == [Finding("ok", found)]


def no_probe(probe: str) -> Finding:
    return Finding("warning", f"the pod of llm-api has no {probe}", "let it ask /health/live, as in deploy/")


def pod_stops(has: str, takes: str, short: str) -> Finding:
    what = f"the pod of llm-api has {has} s to stop, a request {takes} s"
    return Finding("error", what, f"raise terminationGracePeriodSeconds by {short} s")


APART = Finding(
    "warning",
    "each worker of each pod of llm-api counts requests for itself",
    "set RATE_LIMIT_STORAGE=redis://HOST:PORT/0 there",
)
STORAGE = """            - name: RATE_LIMIT_STORAGE
              valueFrom:
                secretKeyRef:
                  name: llm-api
                  key: RATE_LIMIT_STORAGE
"""
ALONE_THERE = {"    name: llm-api\n  minReplicas": "    name: other\n  minReplicas", STORAGE: ""}
LIMIT = "RATE_LIMIT\n              value: 60/minute"
ELSEWHERE = {
    "- secretRef": "- configMapRef",
    "kind: Service\n": "kind: ConfigMap\ndata: {RATE_LIMIT_STORAGE: 'redis://h'}\n",
}
GRACE = "terminationGracePeriodSeconds: 145"
SLEEP = "sleep:\n                seconds: 5"
LIVE = "httpGet: &live\n              path: /health/live"
SELECTOR = "spec:\n  selector:\n    matchLabels"
RESTARTED = Finding(
    "warning",
    "the pod of llm-api is restarted when a provider is away: its livenessProbe asks /llm/health",
    "let it ask /llm/health/live",
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"livenessProbe:": "startupProbe:"}, [no_probe("livenessProbe")]),
        ({"readinessProbe:": "x:"}, [no_probe("readinessProbe")]),
        ({"readinessProbe:": "x:", "livenessProbe:": "y:"}, [no_probe("livenessProbe and no readinessProbe")]),
        ({LIVE: LIVE.replace("/health/live", "/llm/health")}, [RESTARTED]),
        ({GRACE: ""}, [pod_stops("25", "120", "115")]),
        ({GRACE: GRACE.replace("145", "125")}, [pod_stops("120", "120", "20")]),
        ({GRACE: GRACE.replace("145", "126")}, []),
        ({SLEEP: "exec: {command: [sleep, '30']}"}, [pod_stops("115", "120", "25")]),
        ({LIMIT: "REQUEST_TIMEOUT\n              value: '300'"}, [pod_stops("140", "300", "180")]),
        ({STORAGE: ""}, [APART]),
        ({STORAGE: "", "kind: HorizontalPodAutoscaler": "kind: ScaledObject"}, [APART]),
        ({STORAGE: STORAGE.partition("valueFrom")[0] + "value: memory://\n"}, [APART]),
        (ALONE_THERE, []),
        (ALONE_THERE | {SELECTOR: SELECTOR.replace("spec:\n", "spec:\n  replicas: 3\n")}, [APART]),
        (ALONE_THERE | {"kind: Deployment\nmetadata": "kind: DaemonSet\nmetadata"}, [APART]),
        (ELSEWHERE | {STORAGE: ""}, []),
        (
            {
                STORAGE: "",
                LIMIT: f"{LIMIT}\n            - name: LLM_API_RATE_LIMIT_STORAGE\n              value: redis://h",
            },
            [],
        ),
        ({"name: llm-api\n          image: llm-api:0.1.0": "name: app\n          image: registry/app"}, []),
    ],
    ids=str,
)
def test_a_manifest(doctor: Doctor, tmp_path: Path, changes: dict[str, str], expected: list[Finding]) -> None:
    """A pod without probes, that has too little time to stop, or that counts for itself beside others."""
    report = doctor(args=("--manifest", manifest(tmp_path, KUBERNETES, changes)))
    assert report.about("the pod of") + report.about("each pod of") == expected
    assert report.about(": read, with pod of llm-api")


def test_manifests_of_one_deployment(doctor: Doctor, tmp_path: Path) -> None:
    """An autoscaler in a file of its own, and in a list, is one of the same pods."""
    parts = manifest(tmp_path, KUBERNETES, {STORAGE: ""}).read_text().split("---\n")
    for name, part in zip(("pods", "service", "scaler"), parts, strict=False):
        (tmp_path / name).write_text(part)
    (tmp_path / "scaler").write_text("kind: List\nitems:\n- " + "\n  ".join(parts[2].splitlines()))
    given = [word for name in ("pods", "service", "scaler") for word in ("--manifest", tmp_path / name)]
    assert doctor(args=given).about("each pod of") == [APART]
    assert doctor(args=given[:4]).about("each pod of") == []


def compose_stops(has: str, short: str) -> Finding:
    what = f"the container of llm-api has {has} s to stop, a request 120 s"
    return Finding("error", what, f"raise stop_grace_period by {short} s")


UNCHECKED = Finding("warning", "the container of llm-api has no healthcheck", "let it ask /health/live, as in deploy/")
SEVERAL = APART._replace(what="each worker of each container of llm-api counts requests for itself")
REDIS_THERE = "RATE_LIMIT_STORAGE: redis://redis:6379/0"
UNCOUNTED = {REDIS_THERE: "RATE_LIMIT: 1/minute"}
TWO = {"depends_on: [redis]": "scale: 2"}
AS_LIST = {
    "BIND: unix": "- BIND=unix",
    "TRUSTED_PROXIES: unix": "- TRUSTED_PROXIES",
    REDIS_THERE: "- RATE_LIMIT=1/minute",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stop_grace_period: 140s": ""}, [compose_stops("10", "130")]),
        ({"stop_grace_period: 140s": "stop_grace_period: 1m30s"}, [compose_stops("90", "50")]),
        ({"stop_grace_period: 140s": "stop_grace_period: 2m30s"}, []),
        ({"    healthcheck:": "    x-check:"}, [UNCHECKED]),
        ({"healthcheck:": "healthcheck:\n      disable: true"}, [UNCHECKED]),
        ({"healthcheck:": "healthcheck: {test: [NONE]}\n    x-check:"}, [UNCHECKED]),
        (UNCOUNTED, []),
        (UNCOUNTED | TWO, [SEVERAL]),
        (UNCOUNTED | {"depends_on: [redis]": "deploy: {replicas: 2}"}, [SEVERAL]),
        (AS_LIST | TWO, [SEVERAL]),
        ({REDIS_THERE: "RATE_LIMIT: 1/minute\n      RATE_LIMIT_STORAGE: ${STORAGE}"} | TWO, []),
        (TWO, []),
    ],
    ids=str,
)
def test_a_compose_file(doctor: Doctor, tmp_path: Path, changes: dict[str, str], expected: list[Finding]) -> None:
    """The same of a service of Docker Compose; of nginx and Redis beside it nothing is said."""
    report = doctor(args=("--manifest", manifest(tmp_path, COMPOSE, changes)))
    assert report.about("the container of") + report.about("each container of") == expected
    assert report.about(": read, with container of llm-api")


@pytest.mark.parametrize(
    "text",
    [
        "{{ .Values.name }}: x",
        "services: {llm-api: {stop_grace_period: '${GRACE}'}}",
        "services: {llm-api: }",
        "services: [llm-api]",
        "kind: List",
        "kind: Pod\nspec: {containers: [llm-api]}",
        "kind: Pod\nspec: {containers: [{name: llm-api, env: [LLM_BACKEND]}]}",
        "kind: Pod\nspec: {terminationGracePeriodSeconds: 1m, containers: [{name: llm-api}]}",
        "hello",
        "\x00",
        "services: !reset {}",
    ],
)
def test_what_is_no_manifest(doctor: Doctor, tmp_path: Path, text: str) -> None:
    """It is an error that says what to give instead."""
    path = tmp_path / "file.yaml"
    path.write_text(text)
    (finding,) = doctor(args=("--manifest", path)).about("file.yaml")
    assert (finding.level, finding.what.split(" as a ")[0]) == ("error", "file.yaml can't be read")
    assert "helm template" in finding.mend


@pytest.mark.parametrize("text", ["", "---\n---\n", "kind: Pod\nspec: {containers: [{name: redis}]}", "services: {}"])
def test_a_manifest_of_others(doctor: Doctor, tmp_path: Path, text: str) -> None:
    """That nothing was found in it is said, and no success."""
    path = tmp_path / "file.yaml"
    path.write_text(text)
    (finding,) = doctor(args=("--manifest", path)).about("file.yaml")
    assert (finding.level, finding.what[:49]) == ("warning", "file.yaml has no container of this service: none ")


def test_manifests_without_their_reader(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is not among what the service needs; one line says what to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    (finding,) = doctor(args=("--manifest", KUBERNETES)).about("PyYAML")
    assert finding == Finding("warning", "kubernetes.yaml can't be read without PyYAML", "pip install pyyaml")
