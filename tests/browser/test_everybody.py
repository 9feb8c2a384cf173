"""Nobody is kept out: axe-core's rules, keyboards, narrow screens, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from e2e.service import Service, running
from playwright.sync_api import expect

from .conftest import Visitor
from .logs import hour

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that falls back, with a log."""
    home = tmp_path_factory.mktemp("everybody")
    hour(home / "logs" / "log.jsonl", 100)
    with running(home, LLM_BACKEND="ollama", OLLAMA_URL="http://127.0.0.1:9", MAX_RETRIES=0) as it:
        yield it


def playground(visitor: Visitor) -> None:
    page = visitor.page
    visitor.send("Hello")
    expect(page.locator(".answer[data-fallback]")).to_be_visible()
    page.uncheck("#fallback")
    page.select_option("#format", "json_schema")
    page.check("input[value=chat]", force=True)
    visitor.send("Hello", temperature="3")
    expect(page.locator("#form-problem .notice")).to_be_visible()
    visitor.send("Hello", temperature="1")
    expect(page.locator("[data-state=failed]")).to_be_visible()
    page.get_by_role("button", name="API key").click()


def dashboard(visitor: Visitor) -> None:
    expect(visitor.page.locator("#requests button").first).to_be_visible()
    visitor.page.locator(".chart summary").first.click()


def record(visitor: Visitor) -> None:
    visitor.page.locator("#requests button").first.click()
    expect(visitor.page.locator("dialog article")).to_be_visible()


def docs(visitor: Visitor) -> None:
    operation = visitor.page.locator("#chat_completions")
    operation.locator("> summary").click()
    for words in ("messages", "Headers", "Errors"):
        operation.locator("details > summary", has_text=words).first.click()
    operation.get_by_role("button", name="Send").click()
    expect(operation.locator(".answered")).to_contain_text("all after")


PAGES: list[tuple[str, Callable[[Visitor], None]]] = [
    ("/", lambda _: None),
    ("/", playground),
    ("/dashboard", dashboard),
    ("/dashboard", record),
    ("/docs", docs),
]
every_page = pytest.mark.parametrize(
    ("path", "use"), PAGES, ids=["playground", "playground used", "dashboard", "record", "docs"]
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@every_page
def test_axe_finds_nothing(
    new_page: Callable[..., Page],
    service: Service,
    axe: str,
    path: str,
    use: Callable[[Visitor], None],
    scheme: str,
) -> None:
    """None of the rules of WCAG 2.2 A and AA that a machine can check is broken, contrast among them."""
    # the rules come as a script, which the pages' own policy would not let in
    visitor = Visitor(new_page(bypass_csp=True, color_scheme=scheme, reduced_motion="reduce"))
    page = visitor.goto(service, path)
    use(visitor)
    page.evaluate(axe)
    found: list[dict[str, Any]] = page.evaluate("axe.run().then((result) => result.violations)")
    assert [(rule["id"], node["html"][:150]) for rule in found for node in rule["nodes"]] == []


@every_page
def test_a_phone_shows_all_of_it(
    new_page: Callable[..., Page], service: Service, path: str, use: Callable[[Visitor], None]
) -> None:
    """At 375 pixels nothing but wide tables must be scrolled sideways."""
    visitor = Visitor(new_page(viewport={"width": 375, "height": 800}, has_touch=True))
    page = visitor.goto(service, path)
    if path == "/":
        page.locator("#side > summary").click()
    use(visitor)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("path", ["/", "/dashboard", "/docs"])
def test_keyboard_skips_the_header(visitor: Visitor, service: Service, path: str) -> None:
    """The first stop from the top is a link over the header, and where one stands is seen."""
    page = visitor.goto(service, path)
    page.locator("a.brand").focus()
    page.keyboard.press("Shift+Tab")
    link = page.locator(".skip")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    assert link.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_attribute(
        "id", {"/": "prompt", "/dashboard": "requests-title"}.get(path, "description")
    )


def test_nothing_jumps_while_it_streams(visitor: Visitor, smollm2: Service) -> None:
    """From the first chunk to the end of a short answer nothing on the page moves."""
    page = visitor.goto(smollm2)
    page.evaluate(
        "() => { window.shift = 0; new PerformanceObserver((list) => {"
        "for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value"
        "}).observe({ type: 'layout-shift' }) }"
    )
    visitor.send("What is the capital of France?", max_tokens="20", temperature="0")
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=30_000)
    assert page.evaluate("window.shift") < 0.05
