"""The pages' files: open shells, a strict policy, compressed, kept by their version, nothing inline."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from asking import Serve

from llm_api import web
from llm_api.rules import ApiKey

STATIC = Path(web.__file__).parent / "static"
SHELLS = ["/", "/dashboard", "/docs"]
FILES = ["/static/shared/style.css", "/static/vendor/uplot/LICENSE"]
HTML = {"Accept": "text/html,*/*"}


@pytest.mark.parametrize("path", SHELLS + FILES)
def test_pages_are_open_and_strict(make_client: Serve, path: str) -> None:
    """The shells need no key, and each file forbids foreign scripts, frames, types and referrers."""
    answer = make_client(api_keys=(ApiKey("tests", "0" * 64),)).get(path, headers=HTML)
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status_code == 200
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


@pytest.mark.parametrize(
    "path", ["/static/../pages.py", "/static/%2e%2e/pages.py", "/static/", "/static/shared", "/docs/x"]
)
def test_no_other_files(make_client: Serve, path: str) -> None:
    """Only what lies in the folder is given."""
    assert make_client().get(path).status_code == 404


@pytest.mark.parametrize("shell", SHELLS)
def test_files_are_kept_by_their_version(make_client: Serve, shell: str) -> None:
    """A page names its files by a version under which browsers keep them; under another one they ask again."""
    client = make_client()
    page = client.get(shell, headers=HTML)
    names = re.findall(r'"(static/[^"]+)"', page.text)
    assert names
    for name in names:
        assert "immutable" in client.get(f"/{name}").headers["Cache-Control"]
    version = names[0].split("/")[1]
    other = client.get(f"/{names[0].replace(version, 'shared/..')}")
    assert "immutable" not in other.headers["Cache-Control"]
    assert page.headers["Cache-Control"] == "no-cache"


def test_files_are_compressed(make_client: Serve) -> None:
    """Who takes gzip gets it, anybody else the file as it is; caches tell them apart."""
    client, name = make_client(), "/static/shared/style.css"
    packed = client.get(name, headers={"Accept-Encoding": "br, gzip"})
    plain = client.get(name, headers={"Accept-Encoding": "identity"})
    assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert len(packed.data) < len(plain.data) / 2
    assert gzip.decompress(packed.data) == plain.data == (STATIC / "shared" / "style.css").read_bytes()


def test_nothing_is_inline() -> None:
    """No page has a script, a style or a handler inside, nor the address of another host; no script writes HTML."""
    pages = list(STATIC.rglob("*.html"))
    scripts = [path for path in STATIC.rglob("*.js") if "vendor" not in path.parts]
    assert (len(pages), len(scripts) > 10) == (3, True)
    for page in pages:
        text = page.read_text()
        assert not any(word in text for word in (" style=", " onclick=", "<style", "://", "javascript:")), page
        assert text.count("<script") == text.count("<script src=") + text.count('<script type="module" src=')
    for script in scripts:
        assert not any(word in script.read_text() for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval("))


def test_pages_are_small(make_client: Serve) -> None:
    """What a page fetches weighs at most 150 kB on the wire."""
    client = make_client()
    for shell in SHELLS:
        asked = [client.get(shell, headers=HTML)]
        for name in needed(asked[0].text):
            asked.append(client.get(f"/static/{name}", headers={"Accept-Encoding": "gzip"}))
        assert [answer.status_code for answer in asked] == [200] * len(asked)
        assert sum(len(answer.data) for answer in asked) < 150_000


def needed(page: str) -> set[str]:
    """Return the files that a page names, with those that their scripts import, lazily too."""
    found: set[str] = set()
    new = set(re.findall(r'"static/[0-9a-f]+/([^"]+)"', page))
    while new:
        found |= new
        scripts = [STATIC / name for name in new if name.endswith(".js") and (STATIC / name).exists()]
        named = [
            (script.parent / other).resolve().relative_to(STATIC.resolve()).as_posix()
            for script in scripts
            if "vendor" not in script.parts
            for other in re.findall(r'(?:from |import\()"(\.[^"]+)"', script.read_text())
        ]
        new = set(named) - found
    return found
