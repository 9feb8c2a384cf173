"""The dashboard as its users meet it."""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.service import Service
from playwright.sync_api import expect

from .conftest import Visitor
from .logs import hour
from .logs import record as line

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
    expect(page.locator(".plot canvas")).to_have_count(7)
    assert visitor.complaints == []


def test_it_keeps_itself_up_to_date(visitor: Visitor, serve: Serve) -> None:
    """A request appears by itself; while paused none does; who stands in the table keeps their place."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1)
    page = visitor.goto(service, "/dashboard")
    expect(page.locator("#first-step")).to_contain_text(f"127.0.0.1:{service.port}/generate")
    service.generate("first")
    expect(page.locator("#requests tbody button")).to_have_count(1, timeout=15_000)
    page.locator("#requests tbody button").focus()
    service.generate("second")
    expect(page.locator("#requests tbody button")).to_have_count(2, timeout=15_000)
    expect(page.locator("#requests tbody button").nth(1)).to_be_focused()


def test_the_focus_outlives_a_refresh(visitor: Visitor, serve: Serve) -> None:
    """Who stands on a link in a table, or in a chart's, stands there after the page has refreshed itself."""
    service = serve(LLM_BACKEND="stub", log=hour)
    page = visitor.goto(service, "/dashboard")
    page.locator(".chart summary").first.click()
    for link in (page.locator("#models a").nth(1), page.locator(".chart tbody a").nth(5)):
        link.focus()
        name = link.inner_text()
        service.generate("one more")
        with page.expect_response(lambda answer: "dashboard/data" in answer.url):
            pass
        expect(page.locator("body")).to_have_attribute("aria-busy", "false")
        expect(page.locator(":focus")).to_have_text(name)


def test_nothing_found_is_said_without_empty_charts(visitor: Visitor, serve: Serve) -> None:
    """A filter that nothing fits shows no chart; without it all are there again. A request is found by its id."""
    page = visitor.goto(serve(LLM_BACKEND="stub", log=hour), "/dashboard?text=nothinglikethis")
    expect(page.locator("#notices")).to_contain_text("No requests in this time that fit the filter")
    expect(page.locator("#charts")).to_be_hidden()
    page.fill("#text", "")
    expect(page.locator(".plot canvas").first).to_be_visible()
    request_id = page.locator("#requests button").nth(7).get_attribute("title") or ""
    page.fill("#text", request_id)
    expect(page.locator("#requests tbody button")).to_have_count(1)
    assert page.locator("#requests tbody button").get_attribute("title") == request_id
    assert page.locator(".plot").first.evaluate("box => box.clientWidth === box.querySelector('.uplot').clientWidth")


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
    expect(dialog.locator(".timeline li")).to_contain_text(
        [re.compile(r"ollama: (timeout|unreachable) \(3.1 ms\)"), "ollama: ok"]
    )
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


def test_nothing_below_the_content(new_page: Callable[..., Page], serve: Serve) -> None:
    """The document ends where its content does, wide and narrow; a model's row is not cut off at 1280 pixels."""
    service = serve(LLM_BACKEND="stub", log=hour)
    for width in (375, 1280):
        page = Visitor(new_page(viewport={"width": width, "height": 800})).goto(service, "/dashboard")
        expect(page.locator("#requests button").first).to_be_visible()
        below = "document.documentElement.scrollHeight - document.querySelector('main').getBoundingClientRect().bottom"
        assert page.evaluate(below) < 2
    assert page.locator(".scroll:has(#models)").evaluate("box => box.scrollWidth - box.clientWidth") == 0


def test_a_phone_shows_a_record_from_its_left(new_page: Callable[..., Page], serve: Serve) -> None:
    """A record opens unscrolled, with nothing to scroll sideways, however long its id."""
    service = serve(LLM_BACKEND="stub", log=hour)
    page = Visitor(new_page(viewport={"width": 375, "height": 800})).goto(service, "/dashboard")
    page.locator("#requests button").first.click()
    expect(page.locator("dialog article")).to_be_visible()
    dialog = page.locator("dialog")
    assert dialog.evaluate("box => [box.scrollLeft, box.scrollWidth - box.clientWidth]") == [0, 0]


DRAWN = """
const drawText = CanvasRenderingContext2D.prototype.fillText;
window.drawn = [];
window.cut = [];
CanvasRenderingContext2D.prototype.fillText = function (text, ...where) {
  window.drawn.push(text);
  if (this.textAlign === "right" && this.measureText(text).width > where[0]) window.cut.push(text);
  return drawText.call(this, text, ...where);
};
"""


def labels(page: Page, minutes: int) -> list[str]:
    """Return what the charts' axes say after that time is chosen."""
    with page.expect_response(lambda answer: "dashboard/data" in answer.url):
        page.evaluate("window.drawn = []")
        page.select_option("#minutes", str(minutes))
    expect(page.locator("body")).to_have_attribute("aria-busy", "false")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    return page.evaluate("window.drawn")


def test_axes_fit_what_is_shown(visitor: Visitor, serve: Serve) -> None:
    """From a day to 30 and back, the axis has days, each once, then hours; and no halves of a request."""

    def log(path: Path) -> None:
        month = [line(n, time.time() - n * 43_200, random.Random(n)) for n in range(1, 60)]
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(one) + "\n" for one in reversed(month)))

    visitor.page.add_init_script(DRAWN)
    page = visitor.goto(serve(LLM_BACKEND="stub", log=log), "/dashboard?minutes=1440")
    expect(page.locator("#requests button").first).to_be_visible()
    days, hours = r"\d\d-\d\d", r"\d\d:\d\d"
    for minutes, shape in ((43_200, days), (1440, hours), (10_080, days)):
        said = labels(page, minutes)
        times = [text for text in said if re.fullmatch(r"\d\d[-:]\d\d", text)]
        assert times
        assert [text for text in times if not re.fullmatch(shape, text)] == []
        assert len(set(times)) > 2
        if shape == days:  # an hour is at both ends of a day
            assert [one for one, next_one in pairwise(times) if one == next_one] == []
        assert "0.5" not in said


def test_large_numbers_have_room(new_page: Callable[..., Page], serve: Serve) -> None:
    """With a hundred million tokens no number at an axis is cut, nor a model's row at 1280 pixels."""

    def log(path: Path) -> None:
        many = {"input_tokens": 4_800_000, "output_tokens": 1_500_000, "cached_tokens": 0, "reasoning_tokens": 0}
        path.parent.mkdir(exist_ok=True)
        records = (line(n, time.time() - 60 + n, random.Random(n), **many) for n in range(60))
        path.write_text("".join(json.dumps(one) + "\n" for one in records))

    page = new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(DRAWN)
    Visitor(page).goto(serve(LLM_BACKEND="stub", log=log), "/dashboard")
    expect(page.locator("#requests button").first).to_be_visible()
    expect(page.locator("#tiles")).to_contain_text("90M out, 288M in")
    assert page.evaluate("window.drawn").count("0") > 1
    assert page.evaluate("window.cut") == []
    assert page.locator(".scroll:has(#models)").evaluate("box => box.scrollWidth - box.clientWidth") == 0


def test_a_record_has_an_address(visitor: Visitor, serve: Serve) -> None:
    """The link to a record opens it; from there one goes on to the one before and after."""
    service = serve(LLM_BACKEND="stub", log=hour)
    page = visitor.goto(service, "/dashboard")
    page.locator("#requests button").nth(1).click()
    second = page.locator("dialog h2 bdi").inner_text()
    expect(page).to_have_url(re.compile(f"record={second}$"))
    visitor.goto(service, f"/dashboard?record={second}")
    expect(page.locator("dialog .said").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("/dashboard$"))
    page.locator("#requests button").nth(1).click()
    page.get_by_role("button", name="Older").click()
    expect(page.locator("dialog h2 bdi")).to_have_text(
        page.locator("#requests button").nth(2).get_attribute("title") or ""
    )
    page.get_by_role("button", name="Newer").click()
    expect(page.locator("dialog h2 bdi")).to_have_text(second)


def test_a_click_filters(visitor: Visitor, serve: Serve) -> None:
    """A backend in the table is a link to its requests alone, and the address has it."""
    page = visitor.goto(serve(LLM_BACKEND="stub", log=hour), "/dashboard")
    page.locator("#backends").get_by_role("link", name="openai").click()
    expect(page).to_have_url(re.compile(r"\?backend=openai$"))
    expect(page.locator("#backend")).to_have_value("openai")
    expect(page.locator("#models tbody tr")).to_have_count(1)
    page.locator("#models").get_by_role("link", name="gpt-6-luna").click()
    page.locator("#errors").get_by_role("link", name="server_error").click()
    expect(page).to_have_url(re.compile(r"\?backend=openai&model=gpt-6-luna&error=server_error$"))
    expect(page.locator("#requests .mark.ok")).to_have_count(0)
    page.reload()
    page.get_by_role("button", name="Take away error").click()
    expect(page.locator("#requests .mark.ok").first).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    assert {row["backend"] for row in rows} == {"openai"}


def test_a_bar_and_a_caller_filter(visitor: Visitor, serve: Serve) -> None:
    """A click on a stretch of a chart shows that time alone; so does its link, for who has no mouse; a caller's too."""
    page = visitor.goto(serve(LLM_BACKEND="stub", log=hour), "/dashboard?minutes=360")
    expect(page.locator("#requests button").first).to_be_visible()
    bars = page.locator(".chart .u-over").first
    box = bars.bounding_box()
    assert box
    times = (
        page.locator(".chart")
        .first.locator("details tbody a")
        .evaluate_all("links => links.map(({ dataset }) => JSON.parse(dataset.filter))")
    )
    first, end, last = times[0]["since"], times[-1]["until"], times[-2]
    # near its right edge, which is nearer to the next one's begin
    where = (last["until"] - 60 - first) / (end - first)
    bars.click(position={"x": box["width"] * where, "y": 60})
    expect(page).to_have_url(re.compile(r"\?minutes=360&since=\d+&until=\d+$"))
    expect(page.locator("body")).to_have_attribute("aria-busy", "false")
    page.reload()
    chip = page.locator("#chosen button")
    expect(chip).to_contain_text(re.compile(r"time: \d\d:\d\d:00 . \d\d:\d\d:00"))
    since, until = (int(found) for found in re.findall(r"(?:since|until)=(\d+)", page.url))
    assert {"since": since, "until": until} == last
    counts = page.locator(".chart").first.locator("details tbody td:nth-child(2)")
    expect(counts).to_have_count(15)
    assert sum(map(int, counts.all_text_contents())) <= int(tile(page, "Requests")) < 250
    page.locator(".chart summary").first.press("Enter")
    page.locator(".chart tbody a").nth(3).press("Enter")
    expect(counts).to_have_count(1)
    chip.press("Enter")
    expect(page).to_have_url(re.compile(r"\?minutes=360$"))
    page.locator("#requests").get_by_role("link", name="tickets").first.click()
    expect(page.locator("#requests").get_by_role("link", name=re.compile("search|notebook"))).to_have_count(0)
    expect(page).to_have_url(re.compile(r"\?minutes=360&caller=tickets$"))


def test_what_there_is_can_be_chosen(visitor: Visitor, serve: Serve) -> None:
    """Model, operation, error, reason and caller are chosen from what the log has; what it lacks has no field."""
    page = visitor.goto(serve(LLM_BACKEND="stub", log=hour), "/dashboard")
    page.locator("#filter summary").press("Enter")
    page.get_by_label("Fallback reason").select_option("timeout")
    expect(page).to_have_url(re.compile(r"\?reason=timeout$"))
    expect(page.locator("#reasons tbody tr")).to_have_count(1)
    page.locator("#filter").get_by_label("Model").select_option("stub")
    page.get_by_label("Caller").select_option("search")
    expect(page.locator("#chosen button")).to_have_count(3)
    page.reload()
    expect(page.locator("#caller")).to_have_value("search")
    expect(page.locator("#models tbody tr")).to_have_count(1)
    assert page.locator("#operation option").all_text_contents() == ["all", "generate"]


def test_more_requests(visitor: Visitor, serve: Serve) -> None:
    """Older rows follow the latest fifty at a press, and stay while the page refreshes itself."""
    page = visitor.goto(serve(LLM_BACKEND="stub", log=hour), "/dashboard")
    expect(page.locator("#requests tbody tr")).to_have_count(50)
    page.get_by_role("button", name="More requests").click()
    expect(page.locator("#requests tbody tr")).to_have_count(100)
    with page.expect_response(lambda answer: "dashboard/data" in answer.url):
        pass
    ids = [row.get_attribute("data-request") for row in page.locator("#requests [data-request]").all()]
    assert len(set(ids)) == 100
