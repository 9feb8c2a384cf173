"""The layer rule: rooms import only from rooms below them."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llm_api

PACKAGE = Path(llm_api.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_MODULES = 9
# From the top down. A room is a folder, or a module that lies in the package itself.
ROWS = (
    {"__init__", "testing"},
    {"cli"},
    {"web"},
    {"dialects"},
    {"exchange"},
    {"backends"},
    {"log", "runtime"},
    {"settings"},
    {"rules"},
    {"types"},
    {"strict_json"},
    {"errors"},
)
LAYERS = {room: number for number, row in enumerate(ROWS) for room in row}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield the full dotted name of everything `path` imports, at the top, in functions and under TYPE_CHECKING."""
    package = ["llm_api", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """Return the rooms of the package that `path` imports from; `__init__` for what stands in the package itself."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("llm_api.")}
    return {name if name in LAYERS else "__init__" for name in found}


def test_each_room_has_its_row() -> None:
    """A new room has its place, and no row names a room that is gone."""
    assert set(LAYERS) == {room(path) for path in MODULES}


def test_no_folder_is_crowded() -> None:
    """A folder has at most nine modules."""
    folders = [path.parent for path in MODULES]
    assert [folder for folder in set(folders) if folders.count(folder) > MOST_MODULES] == []


def test_the_reader_reads() -> None:
    """Imports are understood: some that must be there."""
    assert {"exchange", "settings", "log"} <= rooms_imported(PACKAGE / "web" / "service.py")
    assert {"llm_api.types.Chunk", "llm_api.backends.base.Backend"} <= set(imports(PACKAGE / "backends" / "stub.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports from rows below its own, or from its own room."""
    own = room(path)
    wrong = {name for name in rooms_imported(path) if name != own and LAYERS[name] <= LAYERS[own]}
    assert wrong == set()


def importers(pattern: str) -> set[str]:
    return {room(path) for path in MODULES if any(re.fullmatch(pattern, name) for name in imports(path))}


@pytest.mark.parametrize(
    ("pattern", "rooms"),
    [
        (r"flask\.(request|g)", {"web"}),
        (r"(requests|urllib3)(\..*)?", {"backends"}),
        (r"marshmallow(\..*)?", {"dialects", "web"}),
        (r"(jsonschema|jsonschema_specifications|referencing|regex)(\..*)?", {"exchange"}),
        (r"fcntl(\..*)?", {"log", "backends"}),
        (r"(torch|transformers|xllamacpp)(\..*)?", {"backends"}),
        (r"gunicorn(\..*)?", {"runtime"}),
    ],
)
def test_each_foreign_thing_has_one_room(pattern: str, rooms: set[str]) -> None:
    """Only views touch flask.request, only backends touch requests, and so on."""
    assert importers(pattern) - rooms == set()


def test_no_view_reaches_flask_request_by_another_way() -> None:
    """`import flask` would hide a `flask.request` from the test above."""
    assert importers("flask") == set()


def test_importing_loads_no_engine() -> None:
    """`import llm_api`, and making an app of any backend, loads no engine and no gunicorn."""
    code = (
        "import sys; from llm_api import Settings, create_app;"
        "[create_app(Settings(llm_backend=b, llm_fallback=())) for b in ('huggingface', 'openai', 'stub')];"
        "print(sorted({'torch', 'transformers', 'xllamacpp', 'numpy', 'gunicorn'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
