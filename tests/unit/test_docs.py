"""docs/settings.md and env.example say the same, and what settings.py declares; other pages, what their code says."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from llm_api import Settings
from llm_api.cli.doctor.backends import SHUTDOWNS
from llm_api.errors import BackendError
from llm_api.rules import BACKENDS

ROOT = Path(__file__).parents[2]
FIELDS = dataclasses.fields(Settings)


def shown(default: object) -> str:
    """Write a default as a user writes it in .env."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def section(page: str, heading: str) -> str:
    return (ROOT / page).read_text().split(f"{heading}\n")[1].split("\n## ")[0]


def table(page: str, heading: str) -> list[list[str]]:
    rows = [line.strip("| ").split(" | ") for line in section(page, heading).splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`").rstrip() for cell in row] for row in rows]


def settings_table() -> dict[str, list[str]]:
    rows = {name: cells for name, *cells in table("docs/settings.md", "# Settings")}
    # a cell without a default leaves three columns
    return {name: (cells if len(cells) == 3 else ["", *cells[-2:]]) for name, cells in rows.items()}


def test_the_table_of_settings_is_the_declaration() -> None:
    """Each setting is in docs/settings.md with its default, what is allowed and what it does, and no other is."""
    declared = {f.name.upper(): [shown(f.default), f.metadata["rule"].allowed] for f in FIELDS}
    assert {name: cells[:2] for name, cells in settings_table().items()} == declared
    for field in FIELDS:
        about, *others = settings_table()[field.name.upper()][2].split(" (or ")
        assert about
        assert [f"{name})" for name in field.metadata["other_names"]] == others


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_env_example_names_each_setting(field: dataclasses.Field) -> None:
    """env.example has every setting with its default, under what it does and what is allowed."""
    words = " ".join((ROOT / "env.example").read_text().replace("\n# ", " ").split())
    default, allowed, about = settings_table()[field.name.upper()]
    assert f"{about} allowed: {allowed} #{field.name.upper()}={default}" in words


def test_env_example_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every line of env.example in force, the settings are the defaults."""
    for field in FIELDS:
        for name in (field.name.upper(), *field.metadata["other_names"]):
            monkeypatch.delenv(name, raising=False)
    env = tmp_path / ".env"
    env.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", (ROOT / "env.example").read_text(), flags=re.MULTILINE))
    assert "\nTHREADS=1024\n" in env.read_text()
    assert Settings.load(env) == Settings()


def test_config_shows_each_public_setting(make_client: Callable[..., FlaskClient]) -> None:
    """/config has every setting but the secrets, the backend under its short name, and what the backends serve."""
    public = {f.name for f in FIELDS if not f.metadata["rule"].is_secret}
    assert set(make_client().get("/config").get_json()) == public - {"llm_backend"} | {"backend", "serves"}


def test_each_reason_code_is_documented() -> None:
    """The table of reasons for a fallback is the error tree's list of codes."""
    in_tree = {kind.code for kind in BackendError.__subclasses__()}
    assert {row[0] for row in table("docs/api.md", "## Fallback")} == in_tree


def test_the_readme_is_short() -> None:
    """The README is a first screen: at most 180 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_the_readme_has_a_row_for_each_backend() -> None:
    """The README's table says of each backend who answers."""
    named = {re.split(r"\W", row[0])[0] for row in table("README.md", "## Who answers")}
    assert named >= set(BACKENDS)


ENVS = re.findall(r"```ini\n(.*?)```", section("README.md", "## Use your own model"), re.DOTALL)


@pytest.mark.parametrize(("env", "backend"), [*zip(ENVS, ("ollama", "openai", "claude"), strict=True)])
def test_each_env_of_the_readme_is_two_valid_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str, backend: str
) -> None:
    """Each `.env` block has two lines, chooses its backend, and sets something of that backend's."""
    for name in ("LLM_BACKEND", "OLLAMA_MODEL", "OPENAI_API_KEY", "CLAUDE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(env)
    settings, default = Settings.load(tmp_path / ".env"), Settings()
    changed = {f.name for f in FIELDS if getattr(settings, f.name) != getattr(default, f.name)}
    assert len(env.splitlines()) == 2
    assert settings.llm_backend == backend
    assert [name.split("_")[0] for name in changed - {"llm_backend"}] == [backend]


def test_shutdowns_are_documented() -> None:
    """Each date that the doctor knows is in docs/providers.md, with its models."""
    rows = [line for line in (ROOT / "docs" / "providers.md").read_text().splitlines() if line.startswith("| `")]
    for day in set(SHUTDOWNS.values()):
        (row,) = [row for row in rows if row.endswith(f"| {day} |")]
        for name in re.findall(r"`(.*?)`", row):
            assert any(model.startswith(name) for model, its in SHUTDOWNS.items() if its == day), name


def test_make_bench_finds_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/bench/README.md has the markers that make bench writes between, and the text around them is kept."""
    monkeypatch.syspath_prepend(ROOT)
    from bench.readme import PAGE, PARTS, between

    page = PAGE.read_text()
    for name in PARTS:
        page = between(page, name, "new\n")
    assert page.count("-->\nnew\n<!--") == len(PARTS)
    assert not re.search(r"\| (lines of 1 kB|ours|requests/s)", page), "figures of an earlier run"
    assert page.startswith("# Benchmarks\n")
    assert "**Worse:**" in page


def test_clients_are_the_tested_ones() -> None:
    """docs/clients.md has the versions that make test-clients installs, and lines that its loops have."""
    pinned = dict(re.findall(r" ([@/\w-]+)@([\d.]+)", (ROOT / "Makefile").read_text()))
    pinned |= dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", (ROOT / "tests/clients/requirements.txt").read_text()))
    for client, version, _ in table("docs/clients.md", "# Clients"):
        assert pinned[client] == version, client
    loops = (ROOT / "tests/clients/loops.py").read_text() + (ROOT / "tests/clients/loops.mjs").read_text()
    blocks = re.findall(r"(?ms)^```(?:python|js|yaml)$(.*?)^```$", (ROOT / "docs/clients.md").read_text())
    lines = [re.split("  # |  //", line)[0].removesuffix(")") for block in blocks for line in block.splitlines()]
    assert [line for line in lines if line not in loops] == []
