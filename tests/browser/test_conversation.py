"""The playground's conversation: it survives reloads and other tabs, and nothing in it is lost without being asked."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from e2e.service import Service, eventually, running
from faults.upstreams import Peer, upstream
from playwright.sync_api import expect

from .conftest import Visitor
from .test_playground import beginning, ending, event, speaks

if TYPE_CHECKING:
    from playwright.sync_api import Page

Serve = Callable[..., Service]
DONE = "[data-state=done]"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MARKDOWN = """# Title

Some **bold** text, $a_1 * b_2 * c$ &amp; [a link](https://example.org/) or [none](javascript:alert(1)).

| a | b |
|---|--:|
| 1<br>one <b> | 2 |

1. one
   - [x] deep

```python
def f():  # why
    return "x"
```

![seen](https://example.org/x.png)
"""


Script = Callable[[Peer], None]


class Far:
    """A service and what speaks behind it."""

    def __init__(self) -> None:
        self.script: Script = speaks("Hello.")
        self.service: Service

    def is_late(self) -> tuple[threading.Event, threading.Event]:
        """Let it say "late" when told to go on; return what is set when it is asked, and what to set then."""
        asked, go_on = threading.Event(), threading.Event()

        def slow(peer: Peer) -> None:
            asked.set()
            go_on.wait(60)
            speaks("late")(peer)

        self.script = slow
        return asked, go_on


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    far = Far()
    with upstream(lambda peer: far.script(peer)) as behind:
        settings = {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": behind.address + "/v1", "LLM_FALLBACK": "none"}
        with running(tmp_path_factory.mktemp("far"), **settings) as far.service:
            yield far


def chat(page: Page, words: str, turns: int) -> None:
    page.fill("#prompt", words)
    page.keyboard.press("Control+Enter")
    expect(page.locator(DONE)).to_have_count(turns)


@pytest.fixture
def talking(visitor: Visitor, direct: str) -> Iterator[Page]:
    """A page with a conversation of two turns."""
    page = visitor.goto(direct)
    page.get_by_text("Conversation", exact=True).click()
    chat(page, "first", 1)
    chat(page, "second", 2)
    yield page
    assert visitor.complaints == []


def said(page: Page) -> list[str]:
    return page.locator(".turn").all_inner_texts()


def test_a_reload_loses_nothing(talking: Page) -> None:
    """The turns, the mode and what was being written are there after a reload."""
    talking.fill("#prompt", "not sent yet")
    talking.reload()
    expect(talking.locator(".turn")).to_have_text(["first", "second"])
    expect(talking.locator("#prompt")).to_have_value("not sent yet")
    chat(talking, "third", 3)


def test_a_reload_while_waiting_keeps_the_prompt(visitor: Visitor, far: Far) -> None:
    """A prompt whose answer was not waited for stands there, and can be asked again."""
    asked, go_on = far.is_late()
    page = visitor.goto(far.service)
    visitor.send("do not lose me")
    assert asked.wait(60)
    expect(page.locator("[data-state=waiting] .state")).to_contain_text(re.compile(r"waiting \d+ s"))
    page.reload()
    go_on.set()
    expect(page.locator(".turn")).to_have_text("do not lose me")
    expect(page.locator("[data-state=failed]")).to_contain_text("The page was left")
    page.get_by_role("button", name="Again").click()
    expect(page.locator(f"{DONE} > .said")).to_have_text("late")


def test_two_tabs_do_not_overwrite_each_other(talking: Page) -> None:
    """Both go on with one conversation from the history; the history has both ends of it."""
    other = talking.context.new_page()
    other.goto(talking.url)
    other.locator("#history button").first.click()
    expect(other.locator(".turn")).to_have_count(2)
    chat(other, "of the other", 3)
    expect(talking.locator("#history button")).to_contain_text(["3 turns"])
    chat(talking, "of the first", 3)
    expect(talking.locator("#history button")).to_contain_text(["3 turns", "3 turns"])
    talking.reload()
    expect(talking.locator("#history button")).to_have_count(2)
    for n, end in enumerate(("of the first", "of the other")):
        talking.locator("#history button").nth(n).click()
        expect(talking.locator(".turn").last).to_have_text(end)


def test_nothing_goes_without_being_asked(talking: Page) -> None:
    """Arrow keys on the mode leave the turns; edit, again and delete leave what was in the history."""
    talking.locator("input[value=chat]").focus()
    talking.keyboard.press("ArrowLeft")
    expect(talking.locator("input[value=prompt]")).to_be_checked()
    assert said(talking) == ["first", "second"]
    talking.keyboard.press("ArrowRight")
    talking.get_by_role("button", name="Edit").first.click()
    expect(talking.locator("#prompt")).to_have_value("first")
    chat(talking, "first, but better", 1)
    assert said(talking) == ["first, but better"]
    chat(talking, "then", 2)
    talking.get_by_role("button", name="Delete").first.click()
    assert said(talking) == ["then"]
    expect(talking.locator("#history button")).to_have_count(3)
    talking.locator("#history button").last.click()
    expect(talking.locator(".turn")).to_have_text(["first", "second"])


def test_it_is_saved_as_a_file(talking: Page) -> None:
    """The conversation is written as Markdown and as JSON."""
    with talking.expect_download() as saved:
        talking.get_by_role("button", name="Markdown").click()
    assert saved.value.path().read_text().startswith("## You\n\nfirst\n\n## stub (stub)\n\n[stub]")
    with talking.expect_download() as saved:
        talking.get_by_role("button", name="JSON").click()
    turns = json.loads(saved.value.path().read_text())["turns"]
    assert [turn["asked"] for turn in turns] == ["first", "second"]


def test_the_end_is_followed(visitor: Visitor, far: Far) -> None:
    """The end of a long answer is in sight beside the prompt; who has scrolled up stays where they are."""
    long, go_on = [f"Paragraph {n}.\n\n" for n in range(100)], threading.Event()

    def in_two_parts(peer: Peer) -> None:
        peer.send(beginning(*long))
        go_on.wait(60)
        peer.send(ending(*long, "the end"))

    far.script = in_two_parts
    page = visitor.goto(far.service)
    visitor.send("Say much.")
    expect(page.locator("[data-state=streaming]")).to_contain_text("Paragraph 99")
    eventually(lambda: page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY") < 100)
    expect(page.locator("#prompt")).to_be_in_viewport()
    page.evaluate("scrollTo(0, 0)")
    eventually(lambda: page.evaluate("scrollY") == 0)
    go_on.set()
    expect(page.locator(DONE)).to_contain_text("the end")
    assert page.evaluate("scrollY") < 100


def test_who_has_scrolled_up_a_little_is_left_there(visitor: Visitor, far: Far) -> None:
    """Forty pixels up are enough to be left alone while more comes; back at the end it is followed again."""
    parts = [[f"Paragraph {turn}-{n}.\n\n" for n in range(40)] for turn in range(3)]
    go_on = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.send(beginning(*parts[0]))
        for part in parts[1:]:
            go_on.acquire(timeout=60)
            peer.send(b"".join(event({"delta": {"content": piece}, "finish_reason": None}) for piece in part))
        go_on.acquire(timeout=60)
        peer.send(ending())

    far.script = script
    page = visitor.goto(far.service)
    visitor.send("Say much.")
    left = "document.documentElement.scrollHeight - innerHeight - scrollY"
    expect(page.locator("[data-state=streaming]")).to_contain_text("Paragraph 0-39")
    eventually(lambda: page.evaluate(left) < 1)
    page.evaluate("scrollBy(0, -40)")
    eventually(lambda: page.evaluate(left) > 30)
    there = page.evaluate("scrollY")
    go_on.release()
    expect(page.locator("[data-state=streaming]")).to_contain_text("Paragraph 1-39")
    eventually(lambda: page.evaluate(left) > 500)
    assert page.evaluate("scrollY") == there
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    eventually(lambda: page.evaluate(left) < 1)
    go_on.release()
    expect(page.locator("[data-state=streaming]")).to_contain_text("Paragraph 2-39")
    eventually(lambda: page.evaluate(left) < 1)
    go_on.release()
    expect(page.locator(DONE)).to_be_visible()


def test_a_key_of_an_input_method_is_not_ours(visitor: Visitor, far: Far) -> None:
    """Esc that takes back a half-written word, and Enter that confirms it, neither stop an answer nor send."""
    asked, go_on = far.is_late()
    page = visitor.goto(far.service)
    page.fill("#prompt", "\u306b\u307b\u3093")
    composing = "{ isComposing: true, bubbles: true, cancelable: true, ctrlKey: true, key: "
    pressed = f"(field, key) => field.dispatchEvent(new KeyboardEvent('keydown', {composing}key }}))"
    page.locator("#prompt").evaluate(pressed, "Enter")
    expect(page.locator(".answer")).to_have_count(0)
    visitor.send("Say it.")
    assert asked.wait(60)
    page.locator("#prompt").evaluate(pressed, "Escape")
    go_on.set()
    expect(page.locator(f"{DONE} > .said")).to_have_text("late")


def test_what_can_not_be_kept_is_said(visitor: Visitor, direct: str) -> None:
    """Where the browser has no room the page says so, before a reload loses the conversation; else it does not."""
    page = visitor.goto(direct)
    visitor.send("one")
    expect(page.locator("#history button")).to_have_count(1)
    expect(page.locator("#not-kept")).to_be_hidden()
    # as a browser does that finds out when it writes
    page.evaluate("() => { IDBObjectStore.prototype.put = function () { this.transaction.abort(); return {}; } }")
    visitor.send("two")
    expect(page.locator("#not-kept")).to_contain_text("Save it as a file")


GAP = (
    "document.querySelector('.composer').getBoundingClientRect().top"
    " - [...document.querySelectorAll('.answer footer')].at(-1).getBoundingClientRect().bottom"
)


@pytest.mark.parametrize("size", [(390, 844), (375, 667), (1280, 860)], ids=["phone", "small phone", "wide"])
def test_the_prompt_hides_nothing(new_page: Callable[..., Page], far: Far, size: tuple[int, int]) -> None:
    """At the end of each answer all of it, its buttons too, stands above the prompt, and the page begins at its top."""
    far.script = speaks(
        *["Some words, and more of them. "] * 12, "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", "\n```py\nx = 1\n```\n"
    )
    page = new_page(viewport={"width": size[0], "height": size[1]}, has_touch=size[0] < 500)
    visitor = Visitor(page)
    visitor.goto(far.service)
    expect(page.locator(".health[data-status]")).to_be_visible()
    assert page.evaluate("scrollY") == 0
    if size[0] < 500:
        page.locator("#side > summary").click()
    page.check("input[value=chat]", force=True)
    for number in (1, 2):
        visitor.send("Say something that goes on over more than one line of a narrow screen, and then some more.")
        expect(page.locator(DONE)).to_have_count(number)
        eventually(lambda: page.evaluate(GAP) > 0)


def test_the_end_of_a_paragraph_is_followed(new_page: Callable[..., Page], far: Far) -> None:
    """While a paragraph grows by a line at a time, on a phone, each of its lines comes into sight above the prompt."""
    lines, seen = (
        [f"This is line number {number} of one long paragraph. " for number in range(12)],
        threading.Semaphore(0),
    )

    def script(peer: Peer) -> None:
        peer.send(beginning())
        for line in lines:
            peer.send(event({"delta": {"content": line}, "finish_reason": None}))
            seen.acquire(timeout=60)
        peer.send(ending())

    far.script = script
    visitor = Visitor(new_page(viewport={"width": 390, "height": 600}))
    page = visitor.goto(far.service)
    visitor.send("Say much.")
    for number in range(12):
        expect(page.locator(".answer > .said")).to_contain_text(f"number {number} ")
        eventually(lambda: page.evaluate(GAP) > 0)
        seen.release()
    expect(page.locator(DONE)).to_be_visible()
    eventually(lambda: page.evaluate(GAP) > 0)


def test_markdown_becomes_elements(visitor: Visitor, far: Far) -> None:
    """Headings, tables, lists and code come out as such, whole or in pieces; formulas and unsafe links as written."""
    pieces = [MARKDOWN[at : at + 7] for at in range(0, len(MARKDOWN), 7)]
    far.script = speaks(*pieces)
    page = visitor.goto(far.service)
    visitor.send("Show it.")
    box = page.locator(f"{DONE} > .said")
    expect(box.locator("h3")).to_have_text("Title")
    expect(box.locator("strong")).to_have_text("bold")
    expect(box.locator(".math")).to_have_text("$a_1 * b_2 * c$")
    expect(box).to_contain_text("& a link or [none](javascript:alert(1))")
    expect(box.locator("th")).to_have_text(["a", "b"])
    expect(box.locator("td").first).to_have_text("1one <b>")
    expect(box.locator("td").first.locator("br")).to_have_count(1)
    expect(box.locator("td.to-right")).to_have_text("2")
    expect(box.locator("ol ul li")).to_contain_text("☑ deep")
    expect(box.locator("pre code")).to_have_text('def f():  # why\n    return "x"')
    expect(box.locator(".word-comment")).to_have_text("# why")
    expect(box.locator("img")).to_have_count(0)
    expect(box.locator("a")).to_have_text(["a link", "picture: seen"])
    assert [url for url in visitor.requested if "example.org" in url] == []
    page.get_by_role("button", name="Raw").click()
    expect(page.locator(".as-it-came")).to_contain_text("[a link](https://example.org/)")
    assert [words for words in visitor.complaints if "status of 50" not in words] == []


LONG = {
    "table": ("| a | b |\n|---|---|\n" + "| some | words |\n" * 3000, "tr", 3001),
    "program in a list": ("1. one:\n\n   ```py\n" + "   x = 1\n" * 3000 + "   ```\n\n2. two\n", "li", 2),
    "list": ("".join(f"{number}. item\n   - under it\n" for number in range(1, 1001)), "ol > li", 1000),
    "quote": ("> some words\n>\n" * 1000, "blockquote > p", 1000),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_block_stays_what_it_is(visitor: Visitor, far: Far, name: str) -> None:
    """Up to 64 kB, at once or in pieces: all rows are the table's, a program in a list ends there, items count on."""
    text, inner, number = LONG[name]
    page = visitor.goto(far.service)
    for length in (len(text), 3000):
        far.script = speaks(*(text[at : at + length] for at in range(0, len(text), length)), "\nthe end")
        visitor.send("Show it.")
        box = page.locator(f"{DONE} > .said")
        expect(box).to_contain_text("the end")
        expect(box.locator(inner)).to_have_count(number)
        expect(box.locator(".part > p")).to_have_text("the end")
        page.get_by_role("button", name="New").click()


def test_what_is_made_again_has_a_bound(visitor: Visitor, far: Far) -> None:
    """A table is made again with each piece of it: up to 64 kB, so that the page stays with its reader."""
    far.script = speaks("| a | b |\n|---|---|\n" + "| some | words |\n" * 5000)
    page = visitor.goto(far.service)
    visitor.send("Show it.")
    expect(page.locator(DONE)).to_be_visible()
    assert 3500 < page.locator(f"{DONE} > .said tr").count() < 4000


def test_each_direction_has_its_side(visitor: Visitor, far: Far) -> None:
    """Marks of lists, bars of quotes and columns of tables begin where their words do, all inside the answer; what is
    further inside has no say in it.
    """
    hebrew, english = "\u05d0\u05d1\u05d2", "some words"
    far.script = speaks(
        *(
            f"- {words}\n\n> {words}\n>\n> - {other}\n\n| {words} | 1 |\n|---|---|\n| {other} | 2 |\n\n---\n\n"
            for words, other in ((hebrew, english), (english, hebrew))
        )
    )
    page = visitor.goto(far.service)
    visitor.send("Show it.")
    box = page.locator(f"{DONE} > .said")
    expect(box.locator("table")).to_have_count(2)
    sides = "all => all.map(one => getComputedStyle(one).direction)"
    for block in (".part > * > li", "blockquote", "table"):
        assert box.locator(block).evaluate_all(sides) == ["rtl", "ltr"]
    assert box.locator("blockquote li").evaluate_all(sides) == ["ltr", "rtl"]
    room = "all => all.map(one => one.parentElement.offsetWidth - one.offsetWidth)"
    left = "all => all.map(one => one.offsetLeft - one.parentElement.offsetLeft)"
    first, second = box.locator(".part > * > li").evaluate_all(room)
    assert box.locator(".part > * > li").evaluate_all(left) == [0, second]
    assert first == second > 0


def test_an_end_of_a_line_may_come_in_halves(visitor: Visitor, far: Far) -> None:
    """A table with the ends of lines that Windows has is whole, wherever the pieces begin."""
    text = "| a | b |\r\n|---|---|\r\n| 1 | 2 |\r\n| 3 | 4 |\r\n\r\nthe end"
    far.script = speaks(*text)
    page = visitor.goto(far.service)
    visitor.send("Show it.")
    box = page.locator(f"{DONE} > .said")
    expect(box.locator(".part > p")).to_have_text("the end")
    expect(box.locator("tr")).to_have_count(3)


def test_a_call_is_answered(visitor: Visitor, far: Far) -> None:
    """A call is shown with its arguments; its result is written beside it, and the model goes on with it."""

    bodies: list[dict[str, Any]] = []

    def script(peer: Peer) -> None:
        bodies.append(peer.wish)
        if any(message["role"] == "tool" for message in bodies[-1]["messages"]):
            speaks("It is sunny.")(peer)
            return
        function = {"name": "get_weather", "arguments": '{"city":"Rome"}'}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        peer.send(beginning())
        peer.send(ending(finish_reason="tool_calls", reasoning_content="I need the weather.", tool_calls=[call]))

    far.script = script
    page = visitor.goto(far.service)
    page.locator("#tools-field summary").click()
    page.get_by_role("button", name="Take an example").click()
    page.get_by_text("Conversation", exact=True).click()
    chat(page, "How is the weather in Rome?", 1)
    expect(page.locator(".call")).to_contain_text("get_weather")
    expect(page.locator(".call")).to_contain_text('"city": "Rome"')
    page.get_by_label("Result of call 1, get_weather").fill("sunny, 20 degrees")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(f"{DONE} > .said").last).to_have_text("It is sunny.")
    assert [message["role"] for message in bodies[-1]["messages"]] == ["user", "assistant", "tool"]
    assert bodies[-1]["messages"][2]["content"] == "sunny, 20 degrees"


def test_a_picture_goes_along(visitor: Visitor, far: Far) -> None:
    """A chosen picture is shown, sent as an image, and still there after a reload."""
    bodies: list[str] = []

    def script(peer: Peer) -> None:
        bodies.append(json.dumps(peer.wish))
        speaks("A dot.")(peer)

    far.script = script
    page = visitor.goto(far.service)
    page.set_input_files("#file", {"name": "dot.png", "mimeType": "image/png", "buffer": base64.b64decode(PIXEL)})
    expect(page.locator("#pictures img")).to_have_count(1)
    chat(page, "What is this?", 1)
    assert PIXEL in bodies[-1]
    expect(page.locator("#pictures img")).to_have_count(0)
    page.reload()
    expect(page.locator(".turn img")).to_have_count(1)


def test_a_limit_says_when(visitor: Visitor, serve: Serve) -> None:
    """A 429 says in how many seconds and at what time to try again, with its id once."""
    page = visitor.goto(serve(LLM_BACKEND="stub", RATE_LIMIT="1/minute", WEB_CONCURRENCY=1))
    visitor.send("one")
    expect(page.locator(DONE)).to_be_visible()
    visitor.send("two")
    failed = page.locator("[data-state=failed]")
    expect(failed).to_contain_text("Try again in ")
    request_id = failed.locator(".request-id bdi").inner_text()
    assert failed.inner_text().count(request_id) == 1


def test_a_record_opens_here(visitor: Visitor, direct: str) -> None:
    """From the dashboard a request comes back with its words, and goes out again."""
    page = visitor.goto(direct)
    visitor.send("from the log", temperature="0.5", system="Be brief.")
    expect(page.locator(DONE)).to_be_visible()
    request_id = page.locator(".request-id bdi").inner_text()
    page.goto(f"{direct}/dashboard?record={request_id}")
    page.get_by_role("link", name="Open in the playground").click()
    expect(page.locator("#prompt")).to_have_value("from the log")
    expect(page.locator("#system")).to_have_value("Be brief.")
    expect(page.locator("#temperature")).to_have_value("0.5")
    expect(page.locator(f"{DONE} > .said")).to_contain_text("[stub]")
    page.keyboard.press("Control+Enter")
    expect(page.locator(DONE)).to_have_count(1)
