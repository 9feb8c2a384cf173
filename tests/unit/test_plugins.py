"""Backends of somebody else's: by dotted path or entry point, beside ours, and what is said of those that are none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import Serve
from flask import Flask

from llm_api import LLMAPI, Settings
from llm_api.backends import make_backend
from llm_api.errors import ConfigError
from llm_api.rules import BACKENDS

MODULE = """
from llm_api.backends import Backend
from llm_api.errors import Overloaded
from llm_api.types import Chunk


class Parrot(Backend):
    name = "parrot"
    model = "polly"

    def stream(self, request, deadline):
        if request.turns[-1].content == "sleep":
            raise Overloaded("the parrot sleeps")
        yield Chunk(f"{request.model or self.model}: {request.turns[-1].content}", "stop")

    def check(self, deadline):
        pass

    def list_models(self, deadline):
        return ["polly", "jack"]


class Cage:
    pass


NUMBER = 5
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what installs a package: its module, and its entry points as `name = "module:Class"`."""

    def install(package: str = "zoo", module: str = MODULE, **points: str) -> None:
        (tmp_path / f"{package}.py").write_text(module)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[llm_api.backends]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return install


@pytest.mark.parametrize("name", ["zoo:Parrot", "parrot"])
def test_it_answers_like_ours(
    installed: Callable[..., None], make_client: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Named in LLM_BACKEND either way: answers, headers, /config, /v1/models and the health."""
    installed(parrot="zoo:Parrot")
    monkeypatch.setenv("LLM_BACKEND", name)
    client = make_client(llm_backend=Settings.load(None).llm_backend)
    reply = client.post("/generate", json={"prompt": "Hello"})
    assert (reply.get_json(), reply.headers["X-LLM-Backend"]) == ({"response": "polly: Hello"}, "parrot")
    assert client.get("/config").get_json()["backend"] == name
    assert client.get("/health").get_json()["status"] == "healthy"
    ids = [model["id"] for model in client.get("/v1/models").get_json()["data"]]
    assert {"parrot/polly", "parrot/jack"} <= set(ids)


def test_it_stands_in_a_chain(
    installed: Callable[..., None], make_client: Serve, log_lines: Callable[[], list]
) -> None:
    """It falls back, is a fallback, and can be chosen by `backend/model`."""
    installed(parrot="zoo:Parrot")
    first = make_client(llm_backend="parrot", llm_fallback=("stub",))
    asleep = first.post("/generate", json={"prompt": "sleep"})
    assert (asleep.headers["X-LLM-Backend"], asleep.headers["X-LLM-Fallback"]) == ("stub", "overloaded")
    behind = make_client(llm_backend="replay", replay_miss="fallback", llm_fallback=("zoo:Parrot",))
    assert behind.post("/generate", json={"prompt": "Hello"}).headers["X-LLM-Fallback"] == "not_recorded"
    chosen = make_client(llm_backend="stub", llm_fallback=("parrot",), allow_model_choice=True)
    said = chosen.post("/generate", json={"prompt": "Hello", "model": "parrot/jack"})
    assert said.get_json() == {"response": "jack: Hello"}
    assert [line["backend"] for line in log_lines()] == ["stub", "parrot", "parrot"]


def test_our_names_stay_ours(installed: Callable[..., None]) -> None:
    """A package can't take the name of a backend of ours."""
    installed(stub="zoo:Parrot")
    assert type(make_backend("stub", Settings())).__module__ == "llm_api.backends.stub"


def test_ours_can_be_made() -> None:
    """Each of BACKENDS is in the table, in both modes of huggingface, and knows its own name."""
    for mode in ("local", "cloud"):
        assert [make_backend(name, Settings(hf_mode=mode)).name for name in BACKENDS] == list(BACKENDS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:Parrot", "the backend nowhere:Parrot can't be imported: No module named 'nowhere'"),
        ("zoo:Macaw", "the backend zoo:Macaw can't be imported: module 'zoo' has no attribute 'Macaw'"),
        ("zoo:Cage", "zoo:Cage is not a class derived from llm_api.backends.Backend"),
        ("zoo:NUMBER", "zoo:NUMBER is not a class derived from llm_api.backends.Backend"),
        ("broken", "the backend broken can't be imported: No module named 'gone'"),
        ("twice", "2 installed packages have a backend twice"),
    ],
)
def test_what_is_no_backend_ends_the_start(installed: Callable[..., None], name: str, words: str) -> None:
    """One sentence says what is wrong with a plugin, when the app is made."""
    installed(broken="gone:Parrot", twice="zoo:Parrot")
    installed("garden", twice="zoo:Parrot")
    with pytest.raises(ConfigError) as caught:
        LLMAPI(Flask("host"), llm_backend=name)
    assert str(caught.value) == words
