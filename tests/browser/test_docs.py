"""/docs as its users meet it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


class Visit:
    """A page with /docs in it, and what happened meanwhile."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        # What the policy forbids is told here too.
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{address}/docs")
        page.locator(".opblock").first.wait_for()

    def open(self, operation: str) -> Locator:
        """Open an operation, and return where it is shown."""
        shown = self.page.locator(f"#operations-{operation}")
        shown.locator(".opblock-summary-control").click()
        return shown

    def execute(self, shown: Locator) -> str:
        """Press the buttons, and return the answer's body as it is shown."""
        shown.get_by_role("button", name="Try it out").click()
        shown.get_by_role("button", name="Execute").click()
        answer = shown.locator(".live-responses-table .response").first
        answer.wait_for()
        assert answer.locator(".response-col_status").inner_text().strip() == "200"
        return answer.locator("code").first.inner_text()


@pytest.fixture
def visit(page: Page, address: str) -> Visit:
    return Visit(page, address)


def test_each_operation_is_shown(visit: Visit, address: str) -> None:
    """The page has read the document: each of its paths is there, with its words, in order."""
    with urlopen(f"{address}/openapi.json") as answer:
        document = json.load(answer)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    summaries = visit.page.locator(".opblock-summary-description").all_inner_texts()
    assert sorted(summaries) == sorted(operation["summary"] for operation in operations)
    paths = [path.replace("\u200b", "") for path in visit.page.locator(".opblock-summary-path").all_inner_texts()]
    assert sorted(paths) == sorted(document["paths"])


def test_try_it_out(visit: Visit, address: str) -> None:
    """A prompt sent from the page is answered on it, wherever the service hangs, and nothing comes from elsewhere."""
    answer = json.loads(visit.execute(visit.open("Generate-generate")))
    assert list(answer) == ["response"]
    assert answer["response"].startswith("[stub] ")
    assert f"{address}/generate" in visit.requested
    assert [url for url in visit.requested if not url.startswith((f"{address}/", "data:"))] == []
    assert visit.complaints == []


def test_try_a_stream(visit: Visit) -> None:
    """A streamed answer is shown whole, events and all."""
    shown = visit.open("OpenAI-chat_completions")
    shown.get_by_role("button", name="Try it out").click()
    shown.locator(".examples-select-element").select_option("streamed")
    shown.get_by_role("button", name="Execute").click()
    shown.locator(".live-responses-table").get_by_text("data: [DONE]").wait_for()
    assert visit.complaints == []


def put(element: str, **attributes: str) -> str:
    return f"document.body.append(Object.assign(document.createElement('{element}'), {json.dumps(attributes)}))"


def test_policy_forbids(visit: Visit) -> None:
    """What a script that got into the page would do is forbidden; and the tests above would see that."""
    elsewhere = "http://127.0.0.1:9/"
    tricks = [put("script", textContent="1"), put("script", src=elsewhere), put("img", src=elsewhere)]
    tricks += [put("iframe", src=elsewhere), f"fetch('{elsewhere}').catch(() => 0)"]
    for trick in tricks:
        visit.complaints.clear()
        with visit.page.expect_event("console", lambda message: "Content Security Policy" in message.text):
            visit.page.evaluate(f"() => {{ {trick} }}")
        assert visit.complaints
