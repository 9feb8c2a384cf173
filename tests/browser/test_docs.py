"""/docs as its users meet it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from e2e.service import Service
from faults.upstreams import Peer
from playwright.sync_api import expect

from .conftest import Visitor
from .test_playground import Behind, Serve, beginning, event

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


KEY = "0123456789abcdef0123456789abcdef"


def described(address: str) -> dict[str, Any]:
    with urlopen(f"{address}/openapi.json") as answer:
        return json.load(answer)


def unfold(page: Page, operation: str) -> Locator:
    """Open an operation with the keyboard, and return where it is shown."""
    shown = page.locator(f"#{operation}")
    shown.locator("> summary").focus()
    page.keyboard.press("Enter")
    expect(shown.locator(".try")).to_be_visible()
    return shown


def use_key(page: Page, key: str) -> None:
    page.get_by_role("button", name="API key").click()
    page.fill("#key", key)
    page.keyboard.press("Enter")


def send(shown: Locator) -> Locator:
    shown.get_by_role("button", name="Send").click()
    answer = shown.locator(".answered")
    expect(answer).to_contain_text("all after")
    return answer


def test_each_operation_is_shown(visitor: Visitor, address: str) -> None:
    """The page has read the document: its version, and each path with its words, under its dialect."""
    page = visitor.goto(address, "/docs")
    expect(page.locator(".operation").first).to_be_visible()
    document = described(address)
    operations = [(path, one) for path, methods in document["paths"].items() for one in methods.values()]
    shown = [row.inner_text().split(maxsplit=2) for row in page.locator(".operation > summary").all()]
    assert sorted(row[1:] for row in shown) == sorted(
        [path, one["summary"].replace("`", "")] for path, one in operations
    )
    expect(page.locator("#version")).to_have_text(f"version {document['info']['version']}")
    groups = page.locator("#operations h2").all_inner_texts()
    assert sorted(groups) == sorted({one["tags"][0] for _, one in operations})


def test_try_it_out(visitor: Visitor, address: str) -> None:
    """A prompt sent from the page is answered on it, wherever the service hangs, and nothing comes from elsewhere."""
    page = visitor.goto(address, "/docs")
    answer = send(unfold(page, "generate"))
    expect(answer.locator("strong")).to_have_text("200")
    said = json.loads(answer.locator(".said").inner_text())
    assert said["response"].startswith("[stub] ")
    answer.get_by_text("Headers").click()
    expect(answer.locator("dl")).to_contain_text("x-llm-backend")
    answer = send(unfold(page, "model"))  # its place in the path is filled in
    assert json.loads(answer.locator(".said").inner_text())["id"]
    assert f"{address}/v1/models/default" in visitor.requested
    assert [url for url in visitor.requested if not url.startswith((f"{address}/", "data:"))] == []
    assert visitor.complaints == []


STREAMS = {
    "generate": '"done": true',
    "chat_completions": "data: [DONE]",
    "responses": "event: response.completed",
    "messages": "event: message_stop",
    "ollama_chat": '"done": true',
}


@pytest.mark.parametrize("operation", STREAMS)
def test_try_a_stream(visitor: Visitor, direct: str, operation: str) -> None:
    """Each dialect's stream is shown up to its end, as it came."""
    shown = unfold(visitor.goto(direct, "/docs"), operation)
    shown.get_by_label("Example").select_option("streamed")
    answer = send(shown)
    expect(answer.locator(".said")).to_contain_text(STREAMS[operation])
    assert visitor.complaints == []


def test_a_stream_is_shown_while_it_comes(visitor: Visitor, serve: Serve, behind: Behind) -> None:
    """What has come stands there before the end has, and Stop ends it."""

    def script(peer: Peer) -> None:
        peer.send(beginning())
        peer.send(event({"delta": {"content": "the beginning"}, "finish_reason": None}))
        peer.wait_until_gone()

    far = behind(script)
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far.address + "/v1", LLM_FALLBACK="none")
    shown = unfold(visitor.goto(service, "/docs"), "chat_completions")
    shown.get_by_label("Example").select_option("streamed")
    shown.get_by_label("Body").press("Control+Enter")
    expect(shown.locator(".answered .said")).to_contain_text("the beginning")
    expect(shown.locator(".answered")).not_to_contain_text("all after")
    shown.get_by_role("button", name="Stop").click()
    expect(shown.locator(".answered")).to_contain_text("stopped")


def test_what_is_wrong_is_told(visitor: Visitor, direct: str) -> None:
    """A body that is no JSON is sent as it stands, and the service's words about it are shown."""
    shown = unfold(visitor.goto(direct, "/docs"), "generate")
    shown.get_by_label("Body").fill("{")
    answer = send(shown)
    expect(answer.locator("strong")).to_have_text("400")
    expect(answer).to_contain_text("request_id")


def test_curl_does_the_same(new_page: Callable[..., Page], serve: Serve) -> None:
    """The curl line is what is sent, with the body as it was changed; a key is named in it, never written down."""
    service: Service = serve(LLM_BACKEND="stub", API_KEYS=f"tests:{KEY}")
    page = new_page()
    page.goto(f"http://127.0.0.1:{service.port}/docs")
    use_key(page, KEY)
    shown = unfold(page, "messages")
    body = json.loads(shown.get_by_label("Body").input_value())
    shown.get_by_label("Body").fill(json.dumps(body | {"system": "It's odd."}))
    send(shown)
    command = shown.locator(".curl code").inner_text()
    assert KEY not in command
    env = {"PATH": "/usr/bin:/bin", "LLM_API_KEY": KEY}
    ran = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "[stub]" in ran.stdout
    page_line, curl_line = service.log(status="ok")
    assert page_line["messages"] == curl_line["messages"]
    assert page_line["messages"][0]["content"] == "It's odd."


def test_a_wrong_key_is_told(new_page: Callable[..., Page], serve: Serve) -> None:
    """Whichever words a front has for it, the key's field says that the service does not know the key."""
    service: Service = serve(LLM_BACKEND="stub", API_KEYS=f"tests:{KEY}")
    page = new_page()
    page.goto(f"http://127.0.0.1:{service.port}/docs")
    use_key(page, KEY)
    shown = unfold(page, "ollama_chat")
    use_key(page, "a-key-that-nobody-knows")
    send(shown)
    expect(page.get_by_role("region", name="Access")).to_contain_text("The service says:")


def test_the_schema_unfolds(visitor: Visitor, direct: str) -> None:
    """Fields stand with their types and limits, and those inside are unfolded; an operation has an address."""
    page = visitor.goto(direct, "/docs#chat_completions")
    fields = page.locator("#chat_completions .fields").first
    expect(fields.get_by_text("messages", exact=True)).to_be_visible()
    expect(fields.locator("> li", has_text="temperature").first).to_contain_text("at most 2")
    fields.locator("summary", has_text="messages").first.press("Enter")
    expect(fields.locator(".fields").first).to_contain_text("role")


def put(element: str, **attributes: str) -> str:
    return f"document.body.append(Object.assign(document.createElement('{element}'), {json.dumps(attributes)}))"


def test_policy_forbids(visitor: Visitor, address: str) -> None:
    """What a script that got into the page would do is forbidden; and the tests above would see that."""
    page = visitor.goto(address, "/docs")
    elsewhere = "http://127.0.0.1:9/"
    tricks = [put("img", src=elsewhere), put("iframe", src=elsewhere), f"fetch('{elsewhere}').catch(() => 0)"]
    for trick in tricks:
        visitor.complaints.clear()
        with page.expect_event("console", lambda message: "Content Security Policy" in message.text):
            page.evaluate(f"() => {{ {trick} }}")
        assert visitor.complaints
    for trick in (put("script", textContent="1"), put("script", src=elsewhere), "document.body.innerHTML = '<b>1</b>'"):
        visitor.complaints.clear()
        page.evaluate(f"() => {{ try {{ {trick} }} catch (error) {{ console.error(String(error)) }} }}")
        assert any("TrustedScript" in words or "TrustedHTML" in words for words in visitor.complaints)
