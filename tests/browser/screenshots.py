"""make screenshots: the pictures in docs/screenshots, of the running pages with a real model and a log made by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.service import PROJECT, running
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .conftest import program
from .logs import hour

FOLDER = PROJECT / "docs" / "screenshots"
WIDE = {"width": 1280, "height": 860}
NARROW = {"width": 390, "height": 844}


def ask(page: Page, prompt: str) -> None:
    expect(page.locator("#model option")).not_to_have_count(1)
    expect(page.locator(".health[data-status]")).to_be_visible()
    page.fill("#prompt", prompt)
    if page.locator("#temperature").is_visible():
        page.fill("#max_tokens", "120")
        page.fill("#temperature", "0")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-state=done]")).to_have_count(page.locator(".answer").count(), timeout=60_000)


def playground(page: Page, base: str) -> None:
    page.goto(f"{base}/")
    ask(page, "What is the capital of France?")


def compare(page: Page, base: str) -> None:
    page.goto(f"{base}/")
    expect(page.locator("#compare option[value='stub/stub']")).to_be_attached()
    page.select_option("#compare", "stub/stub")
    ask(page, "Explain what a hash table is, in three sentences.")


def fallback(page: Page, base: str) -> None:
    page.goto(f"{base}/")
    expect(page.locator(".health[data-status=degraded]")).to_be_visible()
    page.fill("#prompt", "What is the capital of France?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=60_000)
    expect(page.locator(".health[data-status=degraded]")).to_be_visible(timeout=60_000)  # no longer loading


def dashboard(page: Page, base: str) -> None:
    page.goto(f"{base}/dashboard")
    expect(page.locator("#updated")).to_contain_text("As of")
    expect(page.locator(".plot canvas")).to_have_count(7)
    expect(page.locator(".health[data-status=healthy]")).to_be_visible(timeout=60_000)


def docs(page: Page, base: str) -> None:
    page.goto(f"{base}/docs#generate")
    shown = page.locator("#generate")
    shown.get_by_label("Example").select_option("streamed")
    shown.get_by_role("button", name="Send").click()
    expect(shown.locator(".answered")).to_contain_text("all after", timeout=60_000)
    page.evaluate("scrollTo(0, 0)")


def picture(
    browser: Browser, name: str, scheme: str, size: dict[str, int], show: Callable[[Page, str], None], base: str
) -> None:
    """Take one picture; `show` brings a page to where it is worth one."""
    with browser.new_context(color_scheme=scheme, viewport=size, reduced_motion="reduce") as context:
        page = context.new_page()
        show(page, base)
        page.screenshot(path=FOLDER / f"{name}.png")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two, sync_playwright() as playwright:
        hour(Path(one) / "logs" / "log.jsonl")
        binary = program("chromium", "chromium-browser", "google-chrome")
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        broken = {"LLM_BACKEND": "ollama", "OLLAMA_URL": "http://127.0.0.1:9", "LLM_FALLBACK": "huggingface"}
        with (
            running(Path(one), LLM_BACKEND="huggingface", ALLOW_MODEL_CHOICE="true") as service,
            running(Path(two), **broken, MAX_RETRIES=0) as falls_back,
        ):
            base = f"http://127.0.0.1:{service.port}"
            service.generate("Hello", max_tokens=1)  # loads the model
            picture(browser, "dashboard", "light", WIDE, dashboard, base)
            picture(browser, "dashboard-dark", "dark", WIDE, dashboard, base)
            picture(browser, "dashboard-narrow", "dark", NARROW, dashboard, base)
            picture(browser, "playground", "light", WIDE, compare, base)
            picture(browser, "playground-dark", "dark", WIDE, compare, base)
            picture(browser, "playground-narrow", "light", NARROW, playground, base)
            picture(browser, "docs", "light", WIDE, docs, base)
            picture(browser, "fallback", "light", WIDE, fallback, f"http://127.0.0.1:{falls_back.port}")
        browser.close()


if __name__ == "__main__":
    main()
