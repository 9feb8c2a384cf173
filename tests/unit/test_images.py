"""Pictures: how clients send them, which are refused, and what is fetched for backends that can't.

The forms of addresses are those of public reports on gateways and libraries: vLLM (GHSA-3f6c-7fw2-ppm4, #57157, and
CVE-2026-24779, the backslash), LMDeploy #4761 and LLaMA-Factory #10646 (redirects, names that change), llama_index
#21671 (numbers), instructor #2659, fastmcp #4400 and LightRAG #3426 (IPv4 inside IPv6).
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asking import Serve, ask, error_of
from fakes import Fake
from flask import Flask
from marshmallow import Schema, ValidationError, fields
from providers import OPENAI, FarEnd, Socket, ollama_answer, openai_answer

from llm_api import LLMAPI, Settings, strict_json
from llm_api.backends import images, make_backend
from llm_api.backends.images import fetched, is_public
from llm_api.dialects.fields import LIMITS, MAX_IMAGES, Limits, Picture, check_said, image_part
from llm_api.errors import ClientGone, MalformedBody, RequestRefused
from llm_api.runtime.deadline import Deadline
from llm_api.types import GenerationRequest, Image, Message, Text, ToolResult

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FILES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(20),
    "image/gif": b"GIF89a" + bytes(20),
    "image/webp": b"RIFF\x0a\n\x00\x00WEBPVP8 " + bytes(20),
}
NO_PICTURES = {
    "nothing": b"",
    "text": b"Hello, this is text",
    "PDF": b"%PDF-1.7" + bytes(20),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "BMP": b"BM" + bytes(30),
    "TIFF": b"II*\x00" + bytes(30),
    "HEIC": b"\x00\x00\x00\x18ftypheic" + bytes(20),
    "sound in RIFF": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(20),
    "half a head": PNG[:5],
}
MOST = 5_242_880
PATIENT = 30.0


def encoded(file: bytes) -> str:
    return base64.b64encode(file).decode()


def data_url(file: bytes = PNG, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{encoded(file)}"


def part(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


@contextmanager
def at_most(image_bytes: int) -> Iterator[None]:
    """Read as a body is read whose pictures may have so many bytes."""
    outer = LIMITS.set(Limits(1, image_bytes))
    yield
    LIMITS.reset(outer)


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    with at_most(MOST):
        yield


def why(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ValidationError) as caught:
        call(*arguments)
    [words] = caught.value.messages
    return str(words)


# What clients send


@pytest.mark.parametrize("kind", FILES)
def test_each_kind(kind: str) -> None:
    """The four kinds that all providers take are read from a data URL, and from base64 alone by their first bytes."""
    wanted = Image(kind, encoded(FILES[kind]))
    assert image_part(part(data_url(FILES[kind], kind))) == wanted
    assert Picture().deserialize(encoded(FILES[kind])) == wanted


@pytest.mark.parametrize(
    "url",
    [
        data_url().replace("data:image/png", "DATA:Image/PNG"),
        data_url().replace("png;", "png;charset=utf-8;"),
        data_url().replace("png;", "png;name=a.png;"),
        data_url().replace(";base64", ";BASE64"),
        data_url().rstrip("="),
        "data:image/png;base64," + base64.encodebytes(PNG).decode(),
        "data:image/png;base64," + base64.encodebytes(PNG).decode().replace("\n", "\r\n"),
    ],
)
def test_forms_of_a_data_url(url: str) -> None:
    """Letters, parameters, line breaks and a missing end don't matter; what goes on is plain base64."""
    assert image_part(part(url)) == Image("image/png", encoded(PNG))


def test_a_name_for_jpeg() -> None:
    """image/jpg is not registered, and everybody says it."""
    assert image_part(part(data_url(FILES["image/jpeg"], "image/jpg"))).media_type == "image/jpeg"


def test_an_address_alone() -> None:
    """Mistral's clients have no object around it."""
    assert image_part({"image_url": "https://h.example/a"}) == Image(url="https://h.example/a")


@pytest.mark.parametrize("url", ["https://h.example/a.png?s=1#x", "http://h.example:8080", "HTTPS://[2606:4700::1]/"])
def test_an_address_is_kept(url: str) -> None:
    """An address travels as it is; whether it is fetched is a backend's matter. So does how closely to look."""
    assert image_part(part(url, detail="low")) == Image(url=url, detail="low")
    assert image_part(part(data_url(), detail=None)).detail is None


@pytest.mark.parametrize("file", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture(file: bytes) -> None:
    """A file is one of the four kinds by its first bytes, whatever it is called."""
    assert "of another kind than JPEG, PNG, GIF and WebP" in why(image_part, part(data_url(file)))
    assert "of another kind" in why(Picture().deserialize, encoded(file))


@pytest.mark.parametrize("kind", ["image/jpeg", "image/gif", "image/svg+xml", "application/pdf", "text/html", ""])
def test_another_kind_than_it_says(kind: str) -> None:
    """The declared type is the file's."""
    said = why(image_part, part(data_url(PNG, kind)))
    assert said == f"The picture is image/png, not {kind or 'without a type'} as its address says."


@pytest.mark.parametrize(
    "text",
    ["%%%%", encoded(PNG)[:-3], encoded(PNG) + "!", encoded(PNG)[:20] + " " + encoded(PNG)[20:], "é" * 8, "-_-_"],
)
def test_what_is_no_base64(text: str) -> None:
    """Base64 is RFC 4648's with its own alphabet; nothing else is skipped, since others would read it otherwise."""
    assert why(Picture().deserialize, text) == "The picture is not base64 (RFC 4648, section 4)."
    assert why(image_part, part(f"data:image/png;base64,{text}")).startswith("The picture is not base64")


@pytest.mark.parametrize("more", [0, 1, 2])
def test_size(more: int) -> None:
    """The file's own bytes count: the limit itself is allowed, with any padding."""
    for spare in range(3):
        file = PNG + bytes(spare)
        url, most = part(data_url(file)), len(file) - more
        with at_most(most):
            if more:
                assert why(image_part, url) == f"The picture has more than {most:,} bytes (MAX_IMAGE_BYTES)."
            else:
                assert image_part(url).media_type == "image/png"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h.example/a", "file:///etc/passwd", "gopher://h.example", "//h.example/a", "http:/h.example", "http:"),
        *(
            "http://",
            "https:///a",
            "a.png",
            "",
            "data:",
            "data:image/png,abc",
            "data:image/png;base64",
            "blob:https://h",
        ),
        *("http://user@h.example/", "http://user:pw@h.example/", "http://h.example:99999/", "http://h.example:x/"),
        *(
            "http://127.0.0.1\\.h.example/",
            "http://127.0.0.1\\@h.example/",
            "http://h.example\\@127.0.0.1/",
            "http:\\\\h.example",
            "http://[::1",
        ),
        *(
            " http://h.example/",
            "\thttp://h.example/",
            "http://h.example/\r\nX: y",
            "http://h.example/a b",
            "http://é/",
        ),
        "http://a@b@h.example/",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    """Only http(s) addresses that all readers read alike, without a user: one's own, or another reader's host."""
    assert why(image_part, part(url)).startswith("Not a picture: ")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"image_url": ["https://h.example/a"]},
        {"image_url": 5},
        {"image_url": {}},
        part(1),
        part(None),
        part("https://h", detail=1),
    ],
)
def test_shape_of_a_part(value: dict[str, Any]) -> None:
    """A part of another shape is told the right one."""
    assert "image_url" in why(image_part, value)


@pytest.mark.parametrize("value", [1, None, {}, ["a"], True])
def test_a_picture_is_a_text(value: Any) -> None:
    """In a list of files each is a text in base64; the error names its place."""
    with pytest.raises(ValidationError) as caught:
        Schema.from_dict({"images": fields.List(Picture())})().load({"images": [encoded(PNG), value]})
    assert set(caught.value.messages_dict["images"]) == {1}


def test_number() -> None:
    """As many pictures as providers take, those of tools' results too."""
    many = (Image("image/png", encoded(PNG)),) * MAX_IMAGES
    check_said([Message("user", many)], "messages")
    for more in (Message("user", many[:1]), Message("tool", (ToolResult("c", many[:1]),))):
        assert why(check_said, [Message("user", many), more], "messages") == "Has more than 100 pictures."


def test_a_result_with_a_picture_needs_eyes() -> None:
    """A picture in a tool's result is one that a model must see."""
    seen = GenerationRequest((Message("tool", (ToolResult("c", (Image("image/png", encoded(PNG)),)),)),))
    assert seen.needs == {"images", "tools"}


def test_room_for_pictures() -> None:
    """By default a largest picture fits into a body, and a mebibyte of texts beside it."""
    settings = Settings()
    assert settings.max_image_bytes * 4 // 3 + 2**20 <= settings.max_body_bytes
    body = json.dumps({"a": "," * 100, "b": encoded(bytes(settings.max_image_bytes))}).encode()
    assert strict_json.loads(body)["a"]


@pytest.mark.parametrize("values", ['"aa",', "[],", "{},", '{"a":1},', "1,"])
def test_number_of_values(values: str) -> None:
    """A long body is to hold pictures: of 8 MiB of small values came 180 MB of memory, and 4 s of work."""
    body = ('{"prompt": [' + values * (2**23 // len(values)))[: 2**23 - 4] + "]}"
    with pytest.raises(MalformedBody, match="more than 400,000 commas and brackets"):
        strict_json.loads(body.encode())


# The fronts

CHAT = "/v1/chat/completions"
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
WORDS = {"type": "text", "text": "What is it?"}


def seeing() -> Fake:
    fake = Fake("one")
    fake.serves = frozenset({"images"})
    return fake


def conversation(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": role, "content": list(parts)}]}


def test_pictures_in_a_conversation(serve: Serve) -> None:
    """The parts reach the backend as they stand; of them only texts count for MAX_PROMPT_CHARS."""
    fake = seeing()
    client = serve(fake, max_prompt_chars=20)
    asked = conversation(WORDS, part(data_url()), part("https://h.example/a", detail="low"))
    assert ask(client, CHAT, **asked).status_code == 200
    shown = Image("image/png", encoded(PNG)), Image(url="https://h.example/a", detail="low")
    assert fake.asked[0].messages[1] == Message("user", (Text("What is it?"), *shown))
    assert ask(client, CHAT, messages=[{"role": "user", "content": [part(data_url())]}]).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (part(data_url(b"MZ")), "The file is no picture"),
        (part(data_url(PNG, "image/gif")), "The picture is image/png, not image/gif"),
        (part("file:///etc/passwd"), "Not a picture"),
        (part(data_url(PNG + bytes(200))), "The picture has more than 100 bytes (MAX_IMAGE_BYTES)."),
        (SOUND, "Sound is not served."),
        (FILE, "Files are not served."),
        ({"type": ["text"]}, "Only parts such as"),
        ({"type": "video_url", "video_url": {"url": "https://h.example"}}, "Only parts such as"),
        ("text", "Only parts such as"),
    ],
)
def test_wrong_parts(serve: Serve, wrong: Any, words: str) -> None:
    """The error names the part."""
    fake = seeing()
    reply = ask(serve(fake, max_image_bytes=100), CHAT, **conversation(WORDS, wrong))
    error = error_of(reply)
    assert (reply.status_code, error["param"], error["type"]) == (400, "messages", "invalid_request_error")
    assert error["message"].startswith(f"messages[1].content[1]: {words}")
    assert fake.asked == []


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_whose_pictures(serve: Serve, role: str) -> None:
    """Only a user shows pictures."""
    reply = ask(serve(seeing()), CHAT, **conversation(part(data_url()), role=role))
    assert (reply.status_code, error_of(reply)["param"]) == (400, "messages")


def test_too_many(serve: Serve) -> None:
    """Both routes take a hundred."""
    client = serve(seeing())
    for number, status in ((100, 200), (101, 400)):
        assert ask(client, CHAT, **conversation(WORDS, *[part(data_url())] * number)).status_code == status
        assert ask(client, images=[encoded(PNG)] * number).status_code == {400: 422}.get(status, status)


def test_pictures_of_a_prompt(serve: Serve, make_app: Callable[..., Flask]) -> None:
    """On /generate, and in Python, a prompt has pictures beside it."""
    fake = seeing()
    client = serve(fake, max_prompt_chars=2)
    assert ask(client, images=[encoded(PNG), encoded(FILES["image/gif"])]).status_code == 200
    pictures = Image("image/png", encoded(PNG)), Image("image/gif", encoded(FILES["image/gif"]))
    assert fake.asked[0].messages == (Message("user", (*pictures, Text("Hi"))),)
    LLMAPI.of(make_app(fake)).generate("Hi", images=[encoded(PNG)])
    assert fake.asked[1].messages == (Message("user", (pictures[0], Text("Hi"))),)


@pytest.mark.parametrize("wrong", [data_url(), "https://h.example/a.png", "AAAA", encoded(PNG + bytes(200)), 5, None])
def test_wrong_pictures_of_a_prompt(serve: Serve, wrong: Any) -> None:
    """There a picture is base64 alone, as Ollama has it; the error names its place."""
    reply = ask(serve(seeing(), max_image_bytes=100), images=[encoded(PNG), wrong])
    assert (reply.status_code, error_of(reply)["param"]) == (422, "images")
    assert error_of(reply)["message"].startswith("images[1]: ")


def test_who_fetches(far_end: FarEnd, serve: Serve) -> None:
    """OpenAI gets the address, and fetches what is there itself; an Ollama that got one would not see it."""
    far_end.post(OPENAI.url, json=openai_answer("A dot."))
    see = conversation(WORDS, part("https://h.example/a.png", detail="low"), part(data_url()))
    assert ask(serve(**OPENAI.settings), CHAT, **see).status_code == 200
    assert json.loads(far_end.calls[0].request.body)["messages"][1]["content"] == see["messages"][1]["content"]
    with pytest.raises(RequestRefused, match="FETCH_IMAGES=true") as caught:
        make_backend("ollama", Settings()).stream(request_for("https://h.example/a.png"), Deadline(PATIENT))
    assert caught.value.code == "unsupported_image"


# What is fetched


def http(body: bytes = PNG, status: str = "200 OK", *headers: str) -> bytes:
    kind = () if any(header.lower().startswith("content-type") for header in headers) else ("Content-Type: image/png",)
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *kind, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def request_for(*urls: str) -> GenerationRequest:
    return GenerationRequest((Message("user", (Text("What is it?"), *(Image(url=url) for url in urls))),))


def fetch(*urls: str, deadline: Deadline | None = None, **settings: Any) -> list[Image]:
    chosen = Settings(**{"fetch_images": True} | settings)
    request = fetched(request_for(*urls), chosen, deadline or Deadline(PATIENT))
    return [part for part in request.messages[0].parts if isinstance(part, Image)]


def refusal(*urls: str, **how: Any) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        fetch(*urls, **how)
    error = caught.value
    assert (error.status, error.param) == (400, "prompt")
    assert not any(url in error.message for url in urls if url)
    return error.code, error.message


@pytest.fixture
def near_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands in for the internet; all else, such as 127.0.0.2, is what it was."""
    monkeypatch.setattr(images, "is_public", lambda address: address == "127.0.0.1" or is_public(address))


@pytest.fixture
def inside() -> Iterator[Socket]:
    """A server that only this machine can reach: a test fails if anybody even connects."""
    with Socket(http()) as server:
        yield server
    assert server.requests == []


PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "2a00:1450:4001:800::200e",
    "100.63.255.255",
    "100.128.0.1",
]
NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%1", "fec0::1", "fd00:ec2::254", "fc00::1"),
    *("ff02::1", "ff0e::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a9fe:a9fe", "2002:7f00:1::", "2002:808:808::1"),
    *("2001:0:a9fe:a9fe::", "2001:20::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "4000::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """The internet's addresses are."""
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    """This machine's, its networks', clouds' own, many hosts' at once, and IPv4 inside IPv6 are not."""
    assert not is_public(address)


def test_nothing_is_fetched_by_default(inside: Socket, near_is_public: None) -> None:
    """Without FETCH_IMAGES an address is refused, and the error says what to do."""
    code, message = refusal(f"{inside.address}/a.png", fetch_images=False)
    assert code == "unsupported_image"
    assert message.endswith("send a data: URL, or start the service with FETCH_IMAGES=true")


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
        ),
        *("0177.0.0.1", "017700000001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *("[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[::1%25lo]"),
        *("169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "192.168.0.1", "100.64.0.1", "0.0.0.0.", "127.0.0.1."),
    ],
)
def test_addresses_inside(inside: Socket, host: str) -> None:
    """However an address inside is written, nobody connects to it: the system's own reading of it is looked at."""
    port = inside.address.rpartition(":")[2]
    assert refusal(f"http://{host}:{port}/a.png") == (
        "invalid_image_url",
        "the picture can't be fetched: its host has no public address",
    )


@pytest.mark.parametrize(
    "form",
    [
        *("http://127.0.0.1:{}\\@h.example/", "http://h.example\\@127.0.0.1:{}/", "http://h.example@127.0.0.1:{}/"),
        *("http://h.example#@127.0.0.1:{}\\/", "//127.0.0.1:{}/", "http:127.0.0.1:{}", "ftp://127.0.0.1:{}/"),
        *("http://127.0.0.1:{}/\r\nHost: x", "http://\uff11\uff12\uff17.0.0.1:{}/", "http://127.0.0.1:{}:80/"),
    ],
)
def test_addresses_that_readers_read_in_two_ways(inside: Socket, form: str) -> None:
    """Where two readers may see two hosts there is none; from Python no dialect has looked at it before."""
    assert refusal(form.format(inside.address.rpartition(":")[2]))[0] == "invalid_image_url"


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let each look-up of h.example have the next of `answers`; return what is connected to, none of which answers."""
    left, real, connected = list(answers), socket.getaddrinfo, list[str]()

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        found = left.pop(0) if host == "h.example" else [host]
        return [entry for address in found for entry in real(address, port, *args, **kwargs)]

    def connect(place: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(place[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    return connected


def test_a_name_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that was looked at is the one that is connected to; the name is not looked up again."""
    connected = names(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    assert refusal("https://h.example/")[1] == "the picture can't be fetched: its connection fails"
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::1", "93.184.216.34"], ["fe80::1%1"]]
)
def test_a_name_for_an_address_inside(monkeypatch: pytest.MonkeyPatch, found: list[str]) -> None:
    """One address inside is enough: the next try might go there."""
    connected = names(monkeypatch, found)
    assert refusal("http://h.example/")[1] == "the picture can't be fetched: its host has no public address"
    assert connected == []


def test_a_host_of_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of them are tried: each may take CONNECT_TIMEOUT."""
    connected = names(monkeypatch, [f"93.184.216.{n}" for n in range(50)])
    refusal("http://h.example/")
    assert len(connected) == images.MAX_ADDRESSES


def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which names there are inside can't be told from the words; what is no name at all does no harm."""

    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    for url in (f"http://{'a' * 70}.example/", "http://.../", "http://a..b/"):
        assert refusal(url)[0] == "invalid_image_url"
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert refusal("http://h.example/")[1] == "the picture can't be fetched: its host has no public address"


@pytest.mark.usefixtures("near_is_public")
class TestFromAPublicAddress:
    """127.0.0.1 is one here."""

    @pytest.mark.parametrize("kind", FILES)
    def test_file(self, kind: str) -> None:
        """The file takes the address's place, with the kind that it has; all else of the request stays."""
        with Socket(http(FILES[kind], "200 OK", "Content-Type: application/octet-stream")) as far:
            request = request_for(f"{far.address}/a?b=c#d", f"{far.address}")
            got = fetched(request, Settings(fetch_images=True), Deadline(PATIENT))
        file = Image(kind, encoded(FILES[kind]))
        assert got.messages[0].parts == (Text("What is it?"), file, file)
        assert far.requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
        assert far.requests[1].startswith(b"GET / HTTP/1.1\r\n")

    def test_what_a_server_learns(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """No key, password, cookie or proxy, from nowhere, not even after a server has set a cookie."""
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with Socket(http(PNG, "200 OK", "Set-Cookie: a=b")) as far:
            fetch(far.address, far.address, http_proxy_url="http://127.0.0.1:9", openai_api_key="sk-secret")
        for request in far.requests:
            sent = {line.partition(b":")[0].lower() for line in request.split(b"\r\n")[1:] if line}
            assert sent == {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection"}

    def test_in_a_tool_s_result(self) -> None:
        """A result's pictures are fetched too; a file is left as it is, and how closely to look at one."""
        with Socket(http()) as far:
            parts = (Text("See"), Image(url=far.address, detail="high"), Image("image/gif", "R0lG"))
            request = GenerationRequest((Message("tool", (ToolResult("c", parts, True),)),))
            got = fetched(request, Settings(fetch_images=True), Deadline(PATIENT))
        seen = Image("image/png", encoded(PNG), detail="high")
        assert got.messages[0].parts == (ToolResult("c", (parts[0], seen, parts[2]), True),)

    def test_what_ollama_is_sent(self, serve: Serve) -> None:
        """With FETCH_IMAGES a client's address becomes a file for an Ollama whose model sees."""
        answer = json.dumps(ollama_answer("A dot.", capabilities=["completion", "vision"])).encode()
        with Socket(http()) as far, Socket(http(answer, "200 OK", "Content-Type: application/json")) as ollama:
            client = serve(llm_backend="ollama", ollama_url=ollama.address, fetch_images=True)
            reply = ask(client, CHAT, **conversation(WORDS, part(far.address)), temperature=0)
        assert reply.get_json()["choices"][0]["message"]["content"] == "A dot."
        sent = json.loads(ollama.requests[-1].partition(b"\r\n\r\n")[2])
        assert sent["messages"][1] == {"role": "user", "content": "What is it?", "images": [encoded(PNG)]}

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect(self, status: int) -> None:
        """A redirect is followed, a relative one too."""
        with Socket(http()) as far, Socket(http(b"", f"{status} Moved", f"Location: {far.address}/b")) as first:
            assert fetch(first.address) == [Image("image/png", encoded(PNG))]

    @pytest.mark.parametrize(
        "location",
        [
            *("http://127.0.0.2:{}/", "http://localhost.:{}/", "//127.0.0.2:{}/", "http://[::1]:{}/", "ftp:", "data:a"),
            *("http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "http://127.0.0.1:{}\\@h.example/"),
            *("http://me:pw@127.0.0.1:{}/", "gopher://127.0.0.1:{}/", "http://[", "http://127.0.0.1:{}/\xe9"),
            "http://2130706434:{}",
        ],
    )
    def test_redirect_inside(self, monkeypatch: pytest.MonkeyPatch, inside: Socket, location: str) -> None:
        """A redirect's address is looked at as the first one's was."""
        where = location.format(inside.address.rpartition(":")[2]).encode("latin-1")
        moved = http(b"", "302 Found", "Location: @").replace(b"@", where, 1)
        monkeypatch.setattr(images, "is_public", lambda address, own=is_public: len(far.requests) == 0 or own(address))
        with Socket(moved) as far:
            assert refusal(far.address)[0] == "invalid_image_url"
        assert len(far.requests) == 1

    @pytest.mark.parametrize("location", [("Location: /again",), ()])
    def test_redirects_without_end(self, location: tuple[str, ...]) -> None:
        """Three are followed."""
        with Socket(http(b"", "302 Found", *location)) as far:
            assert refusal(far.address)[1] == "the picture is redirected more than 3 times"
        assert len(far.requests) == 4

    @pytest.mark.parametrize("file", NO_PICTURES.values(), ids=NO_PICTURES)
    def test_no_picture(self, file: bytes) -> None:
        """What comes is a picture by its first bytes, whatever the server calls it: nothing else is passed on."""
        with Socket(http(file)) as far:
            assert refusal(far.address) == ("invalid_image_format", "the picture is no JPEG, PNG, GIF or WebP")

    @pytest.mark.parametrize(
        "header", ["Content-Type: text/html", "Content-Type: application/json", "Content-Encoding: gzip"]
    )
    def test_not_called_a_picture(self, header: str) -> None:
        """A page is none whatever it begins with; what is compressed was not asked for."""
        with Socket(http(PNG, "200 OK", header)) as far:
            assert refusal(far.address) == ("invalid_image_format", "the picture is no picture, as its server says")

    @pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 407, 500, 503])
    def test_status(self, status: int) -> None:
        """Only a 200 has the picture."""
        with Socket(http(PNG, f"{status} X")) as far:
            assert refusal(far.address)[1] == f"the picture can't be fetched: its server answered {status}"

    @pytest.mark.parametrize(
        "reply", [b"", b"nonsense\r\n\r\n", http()[:-5], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
    )
    def test_answers_that_break(self, reply: bytes) -> None:
        """What is not HTTP, or ends too early, is the address's fault."""
        with Socket(reply) as far:
            assert refusal(far.address) == (
                "invalid_image_url",
                "the picture can't be fetched: its connection fails",
            )

    def test_size(self) -> None:
        """MAX_IMAGE_BYTES bounds each, MAX_BODY_BYTES all of them; no more than that is read."""
        limits = {"max_image_bytes": len(PNG), "max_body_bytes": 2 * len(PNG) + 1}
        with Socket(http()) as far:
            assert len(fetch(far.address, far.address, **limits)) == 2
            assert refusal(*[far.address] * 3, **limits)[0] == "image_too_large"
        with Socket(http(PNG + b"x")) as far:
            assert refusal(far.address, **limits)[0] == "image_too_large"
        with Socket(http(PNG + bytes(50_000_000))) as far:
            assert refusal(far.address)[0] == "image_too_large"
        assert far.delivered < 20_000_000

    def test_a_body_without_a_length(self) -> None:
        """It ends where the server closes."""
        with Socket(b"HTTP/1.0 200 OK\r\n\r\n" + PNG) as far:
            assert fetch(far.address) == [Image("image/png", encoded(PNG))]

    @pytest.mark.parametrize(
        "head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", http(bytes(9999))[:-9999]]
    )
    def test_a_server_that_drips(self, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
        """It is cut off, in its head and in its body, and it is the request that is refused: no backend is late."""
        monkeypatch.setattr(images, "SECONDS", 0.4)
        with Drip(head) as far:
            began = time.monotonic()
            assert refusal(far.address) == ("invalid_image_url", "the picture did not come in time")
        assert time.monotonic() - began < 5
        with Drip(head) as far:
            assert refusal(far.address, deadline=Deadline(0.3))[1] == "the picture did not come in time"

    def test_many_that_drip(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The time is for all pictures of a request together."""
        monkeypatch.setattr(images, "SECONDS", 0.4)
        with Drip(b"") as far:
            began = time.monotonic()
            refusal(*[far.address] * 20)
        assert time.monotonic() - began < 5

    def test_a_client_that_leaves(self) -> None:
        """Nothing is fetched on for a client that is gone."""
        here, there = socket.socketpair()
        with here, Drip(b"") as far:
            threading.Timer(0.2, there.close).start()
            with pytest.raises(ClientGone):
                fetch(far.address, deadline=Deadline(PATIENT, here))

    def test_certificate(self, tmp_path: Path) -> None:
        """A certificate that nobody vouches for ends it; the host's name is what it is asked for."""
        certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([*make, *name, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        asked: list[str | None] = []
        tls.sni_callback = lambda _, name, __: asked.append(name)
        with Tls(tls) as far:
            port = far.address.rpartition(":")[2]
            assert refusal(f"https://127.0.0.1:{port}/")[1] == "the picture can't be fetched: no valid TLS"
            trusting = ssl.create_default_context(cafile=certificate)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("llm_api.backends.http.connections._tls", lambda: trusting)
                patch.setattr(images, "is_public", lambda _: True)
                assert fetch(f"https://localhost:{port}/") == [Image("image/png", encoded(PNG))]
                assert refusal(f"https://127.0.0.1:{port}/")[1] == "the picture can't be fetched: no valid TLS"
        assert asked[1:] == ["localhost", None]
        assert len([request for request in far.requests if request]) == 1


class Drip(Socket):
    """A far end that sends the beginning of an answer, and then a byte now and then."""

    def __init__(self, head: bytes) -> None:
        super().__init__(head)
        self._over = threading.Event()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        super().__exit__(*error)

    def _answer(self, connection: socket.socket) -> None:
        super()._answer(connection)
        try:
            while not self._over.wait(0.02):
                connection.sendall(b"a")
        except OSError:
            return


class Tls(Socket):
    """A far end that is asked over TLS; a handshake that fails is noted as an empty request."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(http())
        self._tls = tls

    def _answer(self, connection: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(connection, server_side=True) as safe:
                super()._answer(safe)
        except OSError:
            self.requests.append(b"")
