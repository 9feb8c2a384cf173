"""Which files of a folder, or of a repository on a hub, HF_MODEL names."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from llm_api.backends.local.model import Files, chosen, find, public_name
from llm_api.errors import ModelNotFound

SPLIT = [f"big-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
ENGINES = ("xllamacpp", "transformers", "huggingface_hub")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
MANY = ["README.md", "m-IQ4_K_M.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would load them is not asked for here."""
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: real("json" if name in ENGINES else name))


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["a.gguf", "config.json"], "", Files("a.gguf", ("a.gguf",))),
        (MANY, "Q4_K_M", Files("m-Q4_K_M.gguf", ("m-Q4_K_M.gguf",), "mmproj-F16.gguf")),
        (MANY, "q8_0", Files("m-Q8_0.gguf", ("m-Q8_0.gguf",), "mmproj-F16.gguf")),
        (MANY, "m-Q8_0.gguf", Files("m-Q8_0.gguf", ("m-Q8_0.gguf",), "mmproj-F16.gguf")),
        (SPLIT, "", Files(SPLIT[0], tuple(SPLIT))),
        (SPLIT, SPLIT[1], Files(SPLIT[0], tuple(SPLIT))),
        (["x/big.gguf", "y/big-Q2_K.gguf"], "Q2_K", Files("y/big-Q2_K.gguf", ("y/big-Q2_K.gguf",))),
        (["config.json", "model.safetensors", "onnx/model.bin"], "", Files("", ("model.safetensors",))),
        (["a.bin", "b.safetensors", "c.safetensors"], "", Files("", ("b.safetensors", "c.safetensors"))),
        (["config.json", "pytorch_model.bin"], "", Files("", ("pytorch_model.bin",))),
    ],
    ids=str,
)
def test_what_is_chosen(names: list[str], wanted: str, expected: Files) -> None:
    """One model: by a part of its name that ends where the part does; all parts of a split one; a projector beside."""
    assert chosen(names, wanted) == expected


@pytest.mark.parametrize(
    ("names", "wanted", "said"),
    [
        (MANY, "", "has 3 GGUF models: name one of m-IQ4_K_M.gguf, m-Q4_K_M.gguf, m-Q8_0.gguf"),
        (MANY, "Q2_K", "has 0 GGUF models for Q2_K: name one of m-IQ4"),
        (["config.json"], "Q2_K", "has 0 GGUF models for Q2_K"),
        (["config.json"], "", "has no model that this service can load: neither GGUF nor safetensors"),
        (SPLIT[:2], "", f"is split, and {SPLIT[2]} is missing"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen(names: list[str], wanted: str, said: str) -> None:
    """The reason has the names to choose from."""
    with pytest.raises(LookupError) as caught:
        chosen(names, wanted)
    assert said in caught.value.args[0]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(data: bytes = bytes(64), words: int = 2, alignment: int = 32) -> bytes:
    """Return a file with a vocabulary, a number, and two tensors in `data`, of which the second begins at 32."""
    vocabulary = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, words) + text("one") + text("two")
    kinds = text("tokenizer.ggml.token_type") + struct.pack("<IIQ2i", 9, 5, 2, 1, 1)
    edge = text("general.alignment") + struct.pack("<II", 4, alignment)
    tensors = b"".join(text(f"t{at}") + struct.pack("<IQQIQ", 2, 4, 2, 0, at) for at in (0, 32))
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, 3) + vocabulary + kinds + edge + tensors
    return head + bytes(-len(head) % alignment) + data


def safetensors(data: bytes = bytes(8), length: int = 0) -> bytes:
    said = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "data_offsets": [0, 8]}}
    head = json.dumps(said).encode().ljust(length)
    return struct.pack("<Q", len(head)) + head + data


@pytest.mark.usefixtures("gunicorn")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.gguf", b"", "a.gguf is empty"),
        ("a.gguf", LFS, "a.gguf is a pointer of Git LFS, not the model: git lfs pull"),
        ("model.safetensors", LFS, "model.safetensors is a pointer of Git LFS"),
        ("pytorch_model.bin", LFS, "pytorch_model.bin is a pointer of Git LFS"),
        ("a.gguf", b"\n<!doctype html><html>", "a.gguf is a page (HTML), not the model: download the file itself"),
        ("a.gguf", b"no model", "a.gguf does not begin with GGUF"),
        ("a.gguf", b"GGUF", "a.gguf has a broken header"),
        ("a.gguf", gguf()[:100], "a.gguf has a broken header"),
        ("a.gguf", gguf(words=2**60), "a.gguf has a broken header"),
        ("a.gguf", b"GGUF\3\0\0\0" + bytes(range(256)) * 4, "a.gguf has a broken header"),
        ("a.gguf", gguf(alignment=0x101), None),
        ("a.gguf", gguf(bytes(32)), f"a.gguf has {len(gguf(bytes(32))):,} bytes, and must have"),
        ("a.gguf", gguf(bytes(33)), None),
        ("a.gguf", struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), None),
        ("a.gguf", b"GGUF\4\0\0\0 of the future", None),
        ("model.safetensors", safetensors(b""), "model.safetensors has"),
        ("model.safetensors", safetensors(), None),
        ("model.safetensors", safetensors(length=ord("<") + 256), None),
        ("model.safetensors", safetensors(length=int.from_bytes(b" <", "little")), None),
        ("model.safetensors", bytes(range(256)), "model.safetensors has a broken header"),
        ("model.safetensors", b"\2\0\0\0\0\0\0\0[]", "model.safetensors has a broken header"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_files_that_are_no_model(
    make_app: Callable[..., Flask], tmp_path: Path, name: str, content: bytes, said: str | None
) -> None:
    """/health and the doctor say it before the first request, without the folder's name, until the file is whole.

    Of one that looks whole the doctor does not say that it answers: nothing has loaded it yet.
    """
    (tmp_path / name).write_bytes(content)
    app = make_app(llm_backend="huggingface", hf_model=str(tmp_path))

    body = app.test_client().get("/health").get_json()
    doctor = app.test_cli_runner().invoke(args=["llm", "doctor"]).output

    if said:
        assert body["reason"].startswith(f"huggingface: HF_MODEL={tmp_path.name}: {said}")
        assert f"huggingface can't serve: HF_MODEL={tmp_path.name}: {said}" in doctor
        assert str(tmp_path) not in body["reason"]
    else:
        assert body["status"] == "healthy"
        assert f"ok       huggingface is not begun, so it is not known whether it can load {tmp_path.name}" in doctor


LLAMA = {"block_count": 4, "embedding_length": 64, "attention.head_count": 8}


@pytest.mark.usefixtures("gunicorn")
@pytest.mark.parametrize(
    ("facts", "needed"),
    [
        (LLAMA, 4 * 8 * (8 + 8) * 2),
        (LLAMA | {"attention.head_count_kv": 2}, 4 * 2 * (8 + 8) * 2),
        (LLAMA | {"attention.head_count_kv": 2, "attention.key_length": 16}, 4 * 2 * (16 + 8) * 2),
        ({}, 0),
    ],
    ids=str,
)
def test_more_memory_than_there_is(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, facts: dict[str, int], needed: int
) -> None:
    """The doctor counts the file and its cache, two bytes a number, for all slots; before anything is loaded."""
    said = b"".join(text(f"llama.{name}") + struct.pack("<II", 4, value) for name, value in facts.items())
    (tmp_path / "a.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(facts)) + said)
    total = (tmp_path / "a.gguf").stat().st_size + needed * 3 * 1000
    app = make_app(llm_backend="huggingface", hf_model=str(tmp_path), hf_slots=3, hf_context=1000)

    def doctor(free: int) -> str:
        monkeypatch.setattr("llm_api.backends.local.backend.free_bytes", lambda: free)
        return app.test_cli_runner().invoke(args=["llm", "doctor"]).output

    assert "are free: lower HF_SLOTS or HF_CONTEXT" in doctor(total - 1)
    assert "are free" not in doctor(total).replace("GiB are free", "")


def test_file_that_cannot_be_read(
    make_app: Callable[..., Flask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the system's."""
    file, really_open = tmp_path / "a.gguf", Path.open
    file.touch(0)

    def open_unless_forbidden(path: Path, *mode: Any, **more: Any) -> Any:  # root may read all
        if path == file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(path, *mode, **more)

    monkeypatch.setattr(Path, "open", open_unless_forbidden)
    health = make_app(llm_backend="huggingface", hf_model=str(tmp_path)).test_client().get("/health").get_json()
    assert "a.gguf can't be read (Permission denied)" in health["reason"]


def test_folder_with_one_model(tmp_path: Path) -> None:
    """The engine is told all files, their size and the last change, so that another model is another engine."""
    for name in (*SPLIT, "mmproj-f16.gguf"):
        (tmp_path / name).write_bytes(gguf())

    asked = find(str(tmp_path))

    assert asked["model"] == str(tmp_path / SPLIT[0])
    assert asked["files"] == [str(tmp_path / name) for name in SPLIT]
    assert asked["projector"] == str(tmp_path / "mmproj-f16.gguf")
    assert asked["size"] == 3 * len(gguf())
    (tmp_path / SPLIT[2]).write_bytes(gguf(bytes(65)))
    assert find(str(tmp_path)) != asked


def test_folder_with_other_things_of_such_names(tmp_path: Path) -> None:
    """What macOS puts beside a file, and a folder, are no models."""
    (tmp_path / "m.gguf").write_bytes(gguf())
    (tmp_path / "._m.gguf").write_bytes(b"\0\5\26\7")
    (tmp_path / "old.gguf").mkdir()
    assert find(str(tmp_path))["model"] == str(tmp_path / "m.gguf")


def test_names_that_are_no_models(tmp_path: Path) -> None:
    """An address, a user who is not there, a file of another name: each says so at once."""
    (tmp_path / "model").write_bytes(gguf())
    for name in ("https://h/o/n/x.gguf", "file:///x.gguf", "~nobody-here/x.gguf"):
        with pytest.raises(ModelNotFound, match=r"^HF_MODEL=x\.gguf: there is no such file$"):
            find(name)
    with pytest.raises(ModelNotFound, match="there is no such file"):
        find("n" * 300 + ".gguf")
    with pytest.raises(ModelNotFound, match=r"^HF_MODEL=model: it is no GGUF model: "):
        find(str(tmp_path / "model"))


def test_folder_with_several_models(tmp_path: Path) -> None:
    """It says which."""
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_text("")
    with pytest.raises(ModelNotFound, match=r"has 2 GGUF models: name one of a\.gguf, b\.gguf"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("named", "public"),
    [
        (None, "SmolLM2-135M-Instruct"),
        ("owner/name-GGUF:Q4_K_M", "owner/name-GGUF:Q4_K_M"),
        ("owner/name:file.gguf", "owner/name:file.gguf"),
        ("gpt2", "gpt2"),
        ("/srv/models/a.gguf", "a.gguf"),
        ("models/a.gguf", "a.gguf"),
        ("~/models/chat", "chat"),
        ("./chat", "chat"),
    ],
)
def test_public_name(named: str | None, public: str) -> None:
    """Of a path the outside sees the last part only; a hub name is whole."""
    assert public_name(named) == public
