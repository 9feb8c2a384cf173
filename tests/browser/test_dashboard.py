"""The dashboard as its users meet it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from e2e.service import Service
from playwright.sync_api import expect

from .conftest import Visitor
from .logs import hour

if TYPE_CHECKING:
    from playwright.sync_api import Page

Serve = Callable[..., Service]


def tile(page: Page, name: str) -> str:
    return page.locator("#tiles div", has=page.get_by_text(name, exact=True)).locator("dd").first.inner_text()


def test_numbers_are_those_of_the_command(visitor: Visitor, serve: Serve) -> None:
    """Tiles and tables show what `flask llm logs stats` says of the same log."""
    service = serve(LLM_BACKEND="stub", log=hour)
    page = visitor.goto(service, "/dashboard?minutes=360")
    expect(page.locator("#updated")).to_contain_text("As of")
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "llm", "logs", "stats", "--json"]
    env = {"PATH": "/usr/bin:/bin", "LLM_BACKEND": "stub"}
    ran = subprocess.run(command, cwd=service.home, env=env, capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(ran.stdout)
    assert [tile(page, name) for name in ("Requests", "Errors", "Fallbacks")] == [
        str(told["total"][name]) for name in ("requests", "errors", "fallbacks")
    ]
    assert tile(page, "Tokens/s") == f"{told['total']['tokens_per_second']:.1f}"
    row = page.locator("#backends tr", has_text="ollama").locator("td").all_inner_texts()
    assert row[:4] == [str(told["backends"]["ollama"][n]) for n in ("requests", "errors", "aborted", "fallbacks")]
    reasons = page.locator("#reasons tbody tr").all_inner_texts()
    assert [re.split(r"\t", reason)[0] for reason in reasons] == list(told["fallback_reasons"])
    counts = page.locator(".chart").first.locator("details tbody td:nth-child(2)").all_text_contents()
    slots = told["over_time"]
    assert sum(map(int, counts)) == sum(slot["requests"] - slot["errors"] - slot["aborted"] for slot in slots)
    expect(page.locator(".plot canvas")).to_have_count(4)
    assert visitor.complaints == []


def test_it_keeps_itself_up_to_date(visitor: Visitor, serve: Serve) -> None:
    """A request appears by itself; while paused none does; who stands in the table keeps their place."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1)
    page = visitor.goto(service, "/dashboard")
    expect(page.locator("#notices")).to_contain_text("No requests in this time")
    service.generate("first")
    expect(page.locator("#requests tbody button")).to_have_count(1, timeout=15_000)
    page.locator("#requests tbody button").focus()
    service.generate("second")
    expect(page.locator("#requests tbody button")).to_have_count(2, timeout=15_000)
    expect(page.locator("#requests tbody button").nth(1)).to_be_focused()


def test_filters_and_records(visitor: Visitor, serve: Serve) -> None:
    """Filters narrow it down and stay in the address; a click shows the whole record, Esc closes it."""
    service = serve(LLM_BACKEND="stub", log=hour)
    page = visitor.goto(service, "/dashboard")
    page.select_option("#status", "fallback")
    expect(page.locator("#requests .fallback").first).to_have_text("fallback from ollama: timeout")
    page.fill("#text", "haiku")
    expect(page).to_have_url(re.compile(r"\?status=fallback&text=haiku$"))
    page.reload()
    expect(page.locator("#text")).to_have_value("haiku")
    rows = page.locator("#requests tbody tr")
    expect(rows.locator(".prompt").filter(has_not_text="haiku")).to_have_count(0)
    expect(rows.locator(".prompt").first).to_have_text("Write a haiku about rain.")
    page.get_by_text("Slowest").click()
    rows.first.click()
    dialog = page.locator("dialog")
    expect(dialog.locator(".said").nth(1)).to_have_text("Write a haiku about rain.")
    expect(dialog.locator("dl")).to_contain_text(re.compile(r"ollama: (timeout|unreachable) \(3.1 ms\), ollama: ok"))
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_no_prompts_where_the_log_keeps_none(visitor: Visitor, serve: Serve) -> None:
    """With LOG_PROMPTS=false the page says that words are hidden, and has none, of lines from before either."""
    page = visitor.goto(serve(LLM_BACKEND="stub", LOG_PROMPTS="false", log=hour), "/dashboard")
    expect(page.locator("#notices")).to_contain_text("hidden")
    page.locator("#requests tbody button").first.click()
    expect(page.locator("dialog dl")).to_contain_text("temperature")
    assert "capital" not in page.content()
    assert "haiku" not in page.content()
