"""Which files of a folder, or of a repository on a hub, HF_MODEL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_api.backends.local.model import Files, chosen, find, public_name
from llm_api.errors import ModelNotFound

SPLIT = [f"big-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
MANY = ["README.md", "m-IQ4_K_M.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would load them is not asked for here."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)


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
        (SPLIT[:2], "", f"is split, and {SPLIT[2]} is missing"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen(names: list[str], wanted: str, said: str) -> None:
    """The reason has the names to choose from."""
    with pytest.raises(LookupError) as caught:
        chosen(names, wanted)
    assert said in caught.value.args[0]


def test_folder_with_one_model(tmp_path: Path) -> None:
    """The engine is told all files, their size and the last change, so that another model is another engine."""
    for name in (*SPLIT, "mmproj-f16.gguf"):
        (tmp_path / name).write_text(name)

    asked = find(str(tmp_path)).asked

    assert asked["model"] == str(tmp_path / SPLIT[0])
    assert asked["files"] == [str(tmp_path / name) for name in SPLIT]
    assert asked["projector"] == str(tmp_path / "mmproj-f16.gguf")
    assert asked["size"] == sum(map(len, SPLIT))
    (tmp_path / SPLIT[2]).write_text("another")
    assert find(str(tmp_path)).asked != asked


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
