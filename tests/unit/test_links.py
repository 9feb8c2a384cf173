"""What the pages name exists: links and their anchors, files, modules, targets of make, cited sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROVIDERS = (ROOT / "docs" / "providers.md").read_text()
FOLDERS = "llm_api|tests|docs|deploy|bench|examples|tools"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return what links to a page's headings may name, as GitHub makes it."""
    headings = re.findall(r"(?m)^#+ (.*)$", text_of(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_resolve(page: Path) -> None:
    """Each relative link and picture leads to a file, and its anchor to a heading there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_each_page() -> None:
    """No page is left without a link in the README."""
    links = re.findall(r"\]\(([^)]+)\)", text_of(ROOT / "README.md"))
    linked = {ROOT / link.partition("#")[0] for link in links}
    assert linked >= set(PAGES) - {ROOT / "README.md"}


def files(page: Path) -> Iterator[str]:
    """Yield the files that a page names in backticks; docs/inside.md says where its own begin."""
    for name in re.findall(r"`([^`\s]+)`", text_of(page)):
        if re.match(rf"({FOLDERS})/", name):
            yield name
        elif page.name == "inside.md" and re.match(r"[a-z_]+/", name):
            yield f"llm_api/{name}"


@every_page
def test_files_exist(page: Path) -> None:
    """Each file or folder of the project that a page names in backticks is there."""
    missing = [name for name in files(page) if not (ROOT / name.replace("/…", "").replace("/*", "")).exists()]
    assert missing == []


@every_page
def test_modules_exist(page: Path) -> None:
    """Each dotted name of the package that a page has in backticks can be imported."""
    for name in re.findall(r"`(llm_api(?:\.\w+)+)`", text_of(page)):
        resolve_name(name)


@every_page
def test_targets_exist(page: Path) -> None:
    """Each `make TARGET` that a page names, also in a block of code, is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"(?m)(?:^|`|: )make ((?:[a-z-]+(?: (?=[a-z])|))+)", page.read_text())
    missing = [target for words in named for target in words.split() if f"\n{target}:" not in makefile]
    assert missing == []


CITING = [path for folder in ("llm_api", "tests", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_cited_sections_exist() -> None:
    """Each section of docs/providers.md that a comment cites is there."""
    cited = {
        number
        for path in CITING
        for numbers in re.findall(r"docs/providers\.md,? ((?:[\d.]*\d(?:, | and )?)+)", path.read_text())
        for number in re.findall(r"[\d.]*\d", numbers)
    }
    headings = re.findall(r"(?m)^##+ ([\d.]*\d)\.? ", PROVIDERS)
    assert cited
    assert cited <= set(headings)
