"""The playground as its users meet it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from e2e.service import Service, eventually
from faults.upstreams import OPENAI, UNTIL_CLOSED, Peer, Upstream
from playwright.sync_api import expect

from .conftest import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import Page

Serve = Callable[..., Service]
Behind = Callable[[Callable[[Peer], None]], Upstream]
KEY = "a-key-for-the-tests"
HOSTILE = """<img src="x" onerror="window.hacked = 1"><script>window.hacked = 2</script>
<a href="javascript:window.hacked = 3">here</a> \u202eright to left\u202c \u0007 </div></article>"""


ODD = 'It\'s a "test" of $HOME `ls`\n\\ and ü😀'


def fact(page: Page, name: str) -> str:
    return page.locator(".facts div", has=page.get_by_text(name, exact=True)).locator("dd").first.inner_text()


def event(choice: dict[str, Any], model: str = "far") -> bytes:
    body = {"object": "chat.completion.chunk", "model": model, "choices": [{"index": 0} | choice]}
    return f"data: {json.dumps(body)}\n\n".encode()


def beginning(*pieces: str) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    said = (event({"delta": {"content": piece}, "finish_reason": None}) for piece in pieces)
    return head + b"".join(said)


def ending(*pieces: str, model: str = "far", finish_reason: str = "stop", **delta: Any) -> bytes:
    said = b"".join(event({"delta": {"content": piece}, "finish_reason": None}) for piece in pieces)
    return said + event({"delta": delta, "finish_reason": finish_reason}, model) + b"data: [DONE]\n\n"


def speaks(*pieces: str, model: str = "far") -> Callable[[Peer], None]:
    """Return the script of an upstream that streams these pieces as OpenAI does."""

    def script(peer: Peer) -> None:
        peer.send(beginning())
        for piece in pieces:
            peer.send(event({"delta": {"content": piece}, "finish_reason": None}, model))
        peer.send(ending(model=model))

    return script


def test_an_answer_streams_in(visitor: Visitor, smollm2: Service) -> None:
    """The text is seen growing; the numbers and the id at its end are those of the log."""
    page = visitor.goto(smollm2)
    visitor.send("Write a long story about a lighthouse.", max_tokens="90", temperature="0")
    said = page.locator("[data-state=streaming] > .said")
    expect(said).not_to_be_empty(timeout=60_000)
    begun = said.inner_text()
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=90_000)
    text = page.locator(".answer > .said").inner_text()
    assert text.startswith(begun[:20])
    page.get_by_role("button", name="Raw").click()
    text = page.locator(".as-it-came").inner_text()
    assert len(begun) < len(text)
    (line,) = smollm2.log(request_id=page.locator(".request-id bdi").inner_text())
    assert line["response"].split() == text.split()
    assert (fact(page, "Tokens in"), fact(page, "Tokens out")) == (
        str(line["input_tokens"]),
        str(line["output_tokens"]),
    )
    assert re.fullmatch(r"[\d.]+ m?s", fact(page, "First chunk"))
    assert float(fact(page, "Tokens/s")) > 0
    expect(page.locator(".answer h2")).to_have_text(re.compile("SmolLM2.*huggingface"))
    expect(page.locator(".notice:visible")).to_have_count(0)
    assert visitor.complaints == []


def test_stop_frees_the_model(visitor: Visitor, smollm2: Service) -> None:
    """Esc ends the answer; the text so far stays, the model stops computing, the log says aborted."""
    page = visitor.goto(smollm2)
    visitor.send("Write a long story about a lighthouse.", max_tokens="2000", temperature="0")
    expect(page.locator("[data-state=streaming] > .said")).not_to_be_empty(timeout=60_000)
    page.keyboard.press("Escape")
    expect(page.locator("[data-state=stopped] > .said")).not_to_be_empty()
    request_id = page.locator(".request-id bdi").inner_text()
    (line,) = eventually(lambda: smollm2.log(request_id=request_id))
    assert line["status"] == "aborted"
    eventually(lambda: not smollm2.computes())
    expect(page.locator("#send")).to_be_enabled()


def test_a_fallback_is_unmistakable(visitor: Visitor, serve: Serve) -> None:
    """Who should have answered, why it did not and who did instead stand above the text."""
    page = visitor.goto(serve(LLM_BACKEND="ollama", OLLAMA_URL="http://127.0.0.1:9", MAX_RETRIES=0))
    expect(page.locator(".health[data-status=degraded]")).to_be_visible()
    visitor.send("Hello")
    notice = page.locator(".answer[data-fallback=unreachable] .notice.warn")
    expect(notice).to_contain_text("Fallback: unreachable")
    expect(notice).to_contain_text("ollama could not answer (no connection). This is from stub.")
    page.get_by_text("Conversation", exact=True).click()
    visitor.send("Hello again")
    notices = page.locator(".answer[data-fallback=unreachable] .notice.warn")
    expect(notices).to_have_count(2)
    expect(notices.last).to_contain_text("This is from stub.")


def test_a_model_that_loads_is_said(visitor: Visitor, direct: str) -> None:
    """While a model loads, header and prompt say so, and how far it is; then they no longer do."""
    said = {"status": "degraded", "backend": "huggingface", "reason": "huggingface: loading a.gguf: 45 %"}
    page = visitor.page
    page.route("**/health", lambda route: route.fulfill(json=said))
    visitor.goto(direct)
    expect(page.locator(".health")).to_have_text("loading")
    expect(page.locator("#health-note")).to_contain_text("loading a.gguf: 45 %")
    said.update(status="healthy", reason="")
    expect(page.locator(".health")).to_have_text("healthy")
    expect(page.locator("#health-note")).to_be_hidden()


def test_errors_say_what_is_wrong(visitor: Visitor, serve: Serve) -> None:
    """What the service refuses, and what never leaves the page, is said in words; what was written stays."""
    page = visitor.goto(serve(LLM_BACKEND="stub", MAX_PROMPT_CHARS=5))
    visitor.send("", temperature="3")
    expect(page.locator("#form-problem")).to_contain_text("Write a prompt.")
    expect(page.locator("#form-problem")).to_contain_text("Temperature")
    expect(page.locator("#prompt")).to_be_focused()
    visitor.send("far too long", temperature="1")
    expect(page.locator("[data-state=failed] .notice.bad p")).to_contain_text("prompt: ")
    expect(page.locator("#prompt")).to_have_value("far too long")


def test_a_stream_that_breaks(visitor: Visitor, serve: Serve, behind: Behind) -> None:
    """The text so far stays, and the service's own words are there, not the browser's for the broken connection."""
    far_end = behind(lambda peer: peer.send(UNTIL_CLOSED + OPENAI.pieces[0]))
    service = serve(**OPENAI.settings(far_end), MAX_RETRIES=0, LLM_FALLBACK="none")
    page = visitor.goto(service)
    visitor.send("Hello")
    expect(page.locator("[data-state=failed] .notice.bad")).to_contain_text("invalid_answer")
    expect(page.locator("[data-state=failed] > .said")).not_to_be_empty()
    page.get_by_text("Conversation", exact=True).click()
    visitor.send("Hello again")
    expect(page.locator("[data-state=failed] .notice.bad")).to_have_count(2)
    expect(page.locator("[data-state=failed] .notice.bad").last).to_contain_text("invalid_answer")
    expect(page.locator(".after").first).to_contain_text("sent without this turn")
    assert [len(line["messages"]) for line in service.log(operation="chat")] == [1]


def test_a_conversation_remembers(visitor: Visitor, smollm2: Service) -> None:
    """Each message is sent with those before it, and a reload can take the conversation up again."""
    page = visitor.goto(smollm2)
    page.get_by_text("Conversation", exact=True).click()
    for number, words in enumerate(["Name a colour.", "And another one?"], 1):
        visitor.send(words, max_tokens="12", temperature="0")
        expect(page.locator("[data-state=done]")).to_have_count(number, timeout=90_000)
        expect(page.locator("#prompt")).to_have_value("")
    line = smollm2.log(request_id=page.locator(".request-id bdi").last.inner_text())[0]
    assert [message["role"] for message in line["messages"]] == ["user", "assistant", "user"]
    page.reload()
    page.locator("#history button").first.click()
    expect(page.locator(".turn")).to_have_text(["Name a colour.", "And another one?"])
    expect(page.locator(".answer > .said").last).to_contain_text(line["response"].split()[0])
    visitor.send("A third?", max_tokens="5")
    expect(page.locator("[data-state=done]")).to_have_count(3, timeout=90_000)
    assert len(smollm2.log(operation="chat")[-1]["messages"]) == 5


def test_json_fits_the_schema(visitor: Visitor, smollm2: Service) -> None:
    """An answer asked for by a schema is JSON that fits it."""
    page = visitor.goto(smollm2)
    page.select_option("#format", "json_schema")
    page.fill(
        "#schema", '{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}'
    )
    visitor.send("What is the capital of France? Answer in JSON.", max_tokens="40", temperature="0")
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=90_000)
    assert json.loads(page.locator(".answer > .said").inner_text())["city"] in ("Paris", "Rome")


def test_two_models_side_by_side(visitor: Visitor, smollm2: Service) -> None:
    """One prompt goes to both, and each answer stands beside the other under its own name."""
    page = visitor.goto(smollm2)
    page.select_option("#compare", "stub/stub")
    visitor.send("Say hello.", max_tokens="10")
    expect(page.locator("[data-state=done]")).to_have_count(2, timeout=90_000)
    expect(page.locator(".answer h2")).to_have_text([re.compile("SmolLM2"), re.compile("stub")])
    left, right = (page.locator(".answer").nth(n).bounding_box() for n in (0, 1))
    assert left
    assert right
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_a_key_is_asked_for(new_page: Callable[..., Page], serve: Serve) -> None:
    """A 401 asks for the key; a wrong one is told, the right one serves in all tabs until the last is closed."""
    page = new_page()
    visitor = Visitor(page)
    service = serve(LLM_BACKEND="stub", API_KEYS=f"tests:{KEY}")
    visitor.goto(service)
    for key, words in (("not-this-one", "this key is not known"), ("ö ü", "printable ASCII")):
        page.fill("#key", key)
        page.keyboard.press("Enter")
        expect(page.locator(".key-bar [role=alert]")).to_contain_text(words)
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".key-bar")).to_have_count(0)
    expect(page.locator("#model option")).not_to_have_count(1)
    visitor.send("Hello")
    expect(page.locator("[data-state=done]")).to_be_visible()
    assert service.log(status="ok")[0]["caller"] == "tests"
    assert KEY not in page.evaluate("JSON.stringify(localStorage)")
    for path in ("/docs", "/dashboard"):
        visitor.goto(service, path)
        expect(page.locator(".operation, #requests button").first).to_be_visible()
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#requests button").first).to_be_visible()
    expect(other.locator(".key-bar")).to_have_count(0)
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget it").click()
    other.goto(f"http://127.0.0.1:{service.port}/dashboard")
    expect(other.locator(".key-bar")).to_be_visible()


@pytest.mark.parametrize(("mode", "key"), [("prompt", None), ("chat", KEY)], ids=["prompt", "conversation with a key"])
def test_copies_run_elsewhere(new_page: Callable[..., Page], serve: Serve, mode: str, key: str | None) -> None:
    """The curl line, the Python program and Postman's request ask the same as the page; the key is in none."""
    service = serve(LLM_BACKEND="stub", **({"API_KEYS": f"tests:{key}"} if key else {}))
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"http://127.0.0.1:{service.port}/")
    if key:
        page.fill("#key", key)
        page.keyboard.press("Enter")
    page.check(f"input[value={mode}]", force=True)
    for name, value in {"prompt": ODD, "stop_words": "'\nEND", "temperature": "0.5"}.items():
        page.fill(f"#{name}", value)
    page.uncheck("#fallback")
    env = {"PATH": "/usr/bin:/bin", "LLM_API_KEY": key or ""}
    for name in ("curl", "python", "postman"):
        page.evaluate("navigator.clipboard.writeText('')")
        page.click(f"[data-copy={name}]")
        copied = eventually(lambda: page.evaluate("navigator.clipboard.readText()"))
        assert KEY not in copied
        if name == "postman":
            request = json.loads(copied)["item"][0]["request"]
            headers = {one["key"]: one["value"].replace("{{api_key}}", KEY) for one in request["header"]}
            asked = Request(request["url"]["raw"], request["body"]["raw"].encode(), headers)
            said = urlopen(asked, timeout=30).read().decode()
        else:
            command = ["bash", "-c", copied] if name == "curl" else [sys.executable, "-c", copied]
            said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "[stub]" in said
    lines = service.log(status="ok")
    assert [line["prompt"] if mode == "prompt" else line["messages"][0]["content"] for line in lines] == [ODD] * 3
    assert [line["parameters"] for line in lines] == [{"temperature": 0.5, "stop": ["'", "END"]}] * 3


def test_hostile_answers_are_text(visitor: Visitor, serve: Serve, behind: Behind) -> None:
    """Markup and scripts in an answer, a model's name or the log are shown as they are, in all three places."""
    far = behind(speaks(HOSTILE, model="<b>far</b>"))
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far.address + "/v1", LLM_FALLBACK="none")
    page = visitor.goto(service)
    visitor.send(HOSTILE)
    answer = page.locator("[data-state=done]")
    expect(answer).to_be_visible()
    for words in ("<img src=", "<script>window.hacked = 2</script>", 'href="javascript:'):
        expect(answer.locator("> .said")).to_contain_text(words)
    raw = answer.locator(".as-it-came")
    # in one step: what is there in full does not wait for the next frame
    shown = "button => { button.click(); return document.querySelector('.as-it-came').textContent.length }"
    assert answer.get_by_role("button", name="Raw").evaluate(shown) > 0
    assert raw.evaluate("element => [...element.children].map((one) => one.textContent).join('\\n')") == HOSTILE
    expect(answer.locator("h2")).to_contain_text("<b>far</b>")
    page.reload()
    page.locator("#history button").first.click()
    expect(page.locator(".answer > .said")).to_contain_text("window.hacked = 1")
    visitor.goto(service, "/dashboard")
    expect(page.locator("#models")).to_contain_text("openai/<b>far</b>")
    page.locator("#requests tbody button").click()
    expect(page.locator("dialog .said").first).to_contain_text("window.hacked = 1")
    assert page.locator("main b, dialog img, main article img, .said a").count() == 0
    assert page.evaluate("window.hacked") is None
    # that far end tells /health and /v1/models nothing
    assert [words for words in visitor.complaints if "status of 50" not in words] == []


def test_a_megabyte_in_one_line_freezes_nothing(visitor: Visitor, serve: Serve, behind: Behind) -> None:
    """While a line of a million characters comes, the page goes on drawing; then all of it is there."""
    far = behind(speaks(*["ab \u05d0\u05d1 " * 2000] * 72, "the end"))
    page = visitor.goto(serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far.address + "/v1", LLM_FALLBACK="none"))
    page.evaluate(
        "() => { window.frames_drawn = 0; const beat = () => { window.frames_drawn += 1;"
        "requestAnimationFrame(beat) }; requestAnimationFrame(beat) }"
    )
    visitor.send("Say much.")
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=90_000)
    said = page.locator(".answer > .said")
    expect(said).to_contain_text("the end", timeout=60_000)
    assert said.evaluate("element => element.textContent.length") == 6 * 2000 * 72 + 7
    assert page.evaluate("window.frames_drawn") > 10


def test_works_wherever_it_hangs(visitor: Visitor, address: str) -> None:
    """At the top, behind nginx under a prefix, inside another app: all pages work, and ask nobody else."""
    page = visitor.goto(address)
    visitor.send("Hello")
    expect(page.locator("[data-state=done] > .said")).to_contain_text("[stub]")
    page.get_by_role("link", name="Dashboard").click()
    expect(page.locator("#requests button").first).to_be_visible()
    page.locator("#requests button").first.click()
    expect(page.locator("dialog .said").first).to_have_text("Hello")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Docs").click()
    expect(page.locator(".operation").first).to_be_visible()
    page.get_by_role("link", name="Playground").click()
    expect(page.locator("#history button")).to_contain_text("Hello")
    assert [url for url in visitor.requested if not url.startswith((f"{address}/", "data:"))] == []
    assert visitor.complaints == []


def test_presets_are_the_browsers_own(visitor: Visitor, direct: str) -> None:
    """A system prompt is kept by a name, found after a reload, renamed, and deleted when that is said twice."""
    page = visitor.goto(direct)
    presets = page.get_by_role("button", name="Presets")
    presets.press("Enter")
    new = page.get_by_label("Name of the new preset")
    new.fill("terse")
    new.press("Enter")
    expect(page.locator("dialog [role=alert]")).to_contain_text("is empty")
    page.keyboard.press("Escape")
    page.fill("#system", "Answer in one line.")
    presets.click()
    for name in ("terse", "other"):
        new.fill(name)
        new.press("Enter")
    page.get_by_label("Name of the preset terse").fill("brief")
    page.get_by_label("Name of the preset terse").press("Tab")
    page.keyboard.press("Escape")
    page.fill("#system", "")
    page.reload()
    presets.click()
    page.get_by_role("button", name="Delete other").click()
    page.get_by_role("button", name="Delete it for good").click()
    expect(page.locator(".presets li")).to_have_count(1)
    page.get_by_role("button", name="Use brief").click()
    expect(page.locator("#system")).to_have_value("Answer in one line.")
    page.reload()
    expect(page.locator("#system")).to_have_value("Answer in one line.")
    assert visitor.complaints == []


def test_history_is_the_browsers_own(visitor: Visitor, direct: str) -> None:
    """What was asked before comes back with its fields and answer after a reload, until it is cleared."""
    page = visitor.goto(direct)
    visitor.send("First", temperature="0.25", system="Be brief.")
    expect(page.locator("[data-state=done]")).to_be_visible()
    request_id = page.locator(".request-id bdi").inner_text()
    expect(page.locator("#history button")).to_contain_text("stub")
    page.reload()
    page.locator("#history button").click()
    expect(page.locator("#prompt")).to_have_value("First")
    expect(page.locator("#temperature")).to_have_value("0.25")
    expect(page.locator("#system")).to_have_value("Be brief.")
    expect(page.locator(".request-id bdi")).to_have_text(request_id)
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator("#history button")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Clear it").click()
    expect(page.locator("#history button")).to_have_count(0)
    page.reload()
    expect(page.locator("#history button")).to_have_count(0)
