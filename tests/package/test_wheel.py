"""What `pip install .` brings, in an environment that has nothing else."""

from __future__ import annotations

import zipfile
from email.parser import Parser
from pathlib import Path

from .conftest import ROOT, Environment

EXTRAS = {"server", "local", "transformers", "hub", "redis", "otel"}


def test_files(wheel: Path) -> None:
    """The wheel has all of the package, the types' mark and the pages; no tests, and nothing on the top but itself."""
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    ours = {path for path in (ROOT / "llm_api").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(ROOT)) for path in ours}
    assert {"llm_api/py.typed", "llm_api/web/static/docs/page.html"} <= names
    assert wheel.stat().st_size < 500_000


def test_extras(wheel: Path) -> None:
    """The extras are there, and what they bring is not needed without them."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        said = Parser().parsestr(file.read(name).decode())
    assert set(said.get_all("Provides-Extra")) == EXTRAS
    needed = [line.split(">=")[0] for line in said.get_all("Requires-Dist") if "extra ==" not in line]
    assert not {"torch", "transformers", "xllamacpp", "limits", "redis", "gunicorn", "pytest"} & set(needed)


def test_what_is_imported_is_declared(installed: Environment) -> None:
    """With the declared dependencies alone only what the extras bring is missing, and pip finds nothing missing."""
    code = """
import importlib, pkgutil, llm_api
for module in pkgutil.walk_packages(llm_api.__path__, "llm_api."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as missing:
        assert missing.name in ("gunicorn", "huggingface_hub", "torch", "transformers"), missing
print(llm_api.__file__)
"""
    ran = installed.run("-W", "error", "-c", code)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "site-packages" in ran.stdout
    assert installed.run("-m", "pip", "check").returncode == 0


def test_it_serves(installed: Environment) -> None:
    """An app made of it answers, and has the pages."""
    code = """
from llm_api import create_app
client = create_app().test_client()
print(client.post("/generate", json={"prompt": "Hello"}).get_json())
files = ("/static/vendor/uplot/uPlot.iife.min.js", "/static/docs/page.js")
for path in ("/docs", *files, "/openapi.json", "/metrics", "/v1/models"):
    with client.get(path) as reply:
        print(reply.status_code, path)
"""
    ran = installed.run("-c", code, LLM_BACKEND="stub")
    first, *others = ran.stdout.splitlines()
    assert (ran.stderr, "[stub]" in first) == ("", True)
    assert [line.split()[0] for line in others] == ["200"] * 6


def test_its_command(installed: Environment) -> None:
    """Without any file of ours `flask --app llm_api llm` works."""
    ran = installed.run("-m", "flask", "--app", "llm_api", "llm", "generate", "Hello", LLM_BACKEND="stub")
    assert (ran.returncode, ran.stderr, ran.stdout.startswith("[stub]")) == (0, "", True)


def test_its_pytest_plugin(installed: Environment) -> None:
    """llm_stub is there by itself, and naming the plugin in pytest_plugins as well does no harm."""
    test = (
        "from llm_api import *\ndef test(llm_stub): assert LLMAPI.of(create_app()).generate('Hi').text == 'stub answer'"
    )
    for name, head in (("test_a.py", ""), ("test_b.py", "pytest_plugins = ['llm_api.testing']\n")):
        (installed.home / name).write_text(head + test)
    ran = installed.run("-m", "pytest", "-q", "test_a.py", "test_b.py")
    assert "2 passed" in ran.stdout, ran.stdout
    assert (
        not (installed.home / "logs" / "log.jsonl").exists()
        or "stub answer" not in (installed.home / "logs" / "log.jsonl").read_text()
    )
