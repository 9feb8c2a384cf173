"""The README and env.example say what the declaration in config.py says."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from llm_api import Settings
from llm_api.errors import BackendError

ROOT = Path(__file__).parents[2]
FIELDS = dataclasses.fields(Settings)


def shown(default: object) -> str:
    """Write a default as a user writes it in .env."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def about(field: dataclasses.Field) -> str:
    others = field.metadata["other_names"]
    return field.metadata["about"] + (f" (or {', '.join(others)})" if others else "")


def readme_rows(heading: str) -> list[list[str]]:
    section = (ROOT / "README.md").read_text().split(heading)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`").rstrip() for cell in row] for row in rows]


def test_readme_table_is_the_declaration() -> None:
    """Each setting stands in the README with its default, what is allowed and what it does, and no other does."""
    rows = {row[0]: row[1:] for row in readme_rows("## Settings")}
    declared = {f.name.upper(): [shown(f.default), f.metadata["rule"].allowed, about(f)] for f in FIELDS}
    # a cell without a default leaves three columns
    rows = {name: (cells if len(cells) == 3 else ["", *cells[-2:]]) for name, cells in rows.items()}
    assert rows == declared


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_env_example_names_each_setting(field: dataclasses.Field) -> None:
    """env.example has every setting with its default, under what it does and what is allowed."""
    words = " ".join((ROOT / "env.example").read_text().replace("\n# ", " ").split())
    entry = f"{about(field)} allowed: {field.metadata['rule'].allowed} #{field.name.upper()}={shown(field.default)}"
    assert entry in words


def test_env_example_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every line of env.example in force, the settings are the defaults."""
    for field in FIELDS:
        for name in (field.name.upper(), *field.metadata["other_names"]):
            monkeypatch.delenv(name, raising=False)
    env = tmp_path / ".env"
    env.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", (ROOT / "env.example").read_text(), flags=re.MULTILINE))
    assert "\nTHREADS=64\n" in env.read_text()
    assert Settings.load(env) == Settings()


def test_config_shows_each_public_setting(make_client: Callable[..., FlaskClient]) -> None:
    """/config has every setting but the secrets, the backend under its short name."""
    public = {f.name for f in FIELDS if not f.metadata["secret"]}
    assert set(make_client().get("/config").get_json()) == public - {"llm_backend"} | {"backend"}


def test_readme_names_each_reason_code() -> None:
    """The table of reasons for a fallback is the error tree's list of codes."""
    in_tree = {kind.code for kind in BackendError.__subclasses__()}
    assert {row[0] for row in readme_rows("### How it falls back")} == in_tree
