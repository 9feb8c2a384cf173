"""Figures 15 and 16: bytes from strangers, over gunicorn. What is refused, and how; that nothing breaks.

What gunicorn itself refuses, before the service sees it, gets gunicorn's own page: no JSON, and no X-Request-ID.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from .loads import CHAT, Service, count, figure, memory_grows_by

PATHS = ("/generate", CHAT, "/v1/completions")
GENERATE = b'{"prompt": "Hi"}'
LIMIT = 1_048_576  # MAX_BODY_BYTES here


class Said:
    """One answer off the wire."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = b"".join(re.split(rb"\r\n", self.body)[1::2])
        else:  # what is left of a damaged request may have an answer too
            self.body = self.body[: int(self.headers.get("content-length", len(self.body)))]

    @property
    def is_anothers(self) -> bool:
        return "x-request-id" not in self.headers


def tell(service: Service, data: bytes | Iterable[bytes], *, is_all: bool = True) -> bytes:
    """Send bytes and return all that comes. Where they may be no whole request, say that no more will come."""
    said = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
        with suppress(OSError):  # it may have heard enough
            for part in [data] if isinstance(data, bytes) else data:
                sock.sendall(part)
            if not is_all:
                sock.shutdown(socket.SHUT_WR)  # which the service may take for a client that is gone
        with suppress(ConnectionError):
            while received := sock.recv(65_536):
                said += received
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)  # it may keep the connection
    return said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


def post(body: bytes, path: str = "/generate", *headers: str, length: object = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost"]
    if not any(header.lower().startswith("content-type:") for header in headers):
        lines.append("Content-Type: application/json")
    if not any(header.lower().startswith(("transfer-encoding:", "content-length:")) for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return post(b"".join(chunks) + end, "/generate", "Transfer-Encoding: chunked")


def framed(*headers: str) -> bytes:
    """One chunk and the last one, with such headers."""
    return post(chunk(GENERATE) + b"0\r\n\r\n", "/generate", *headers)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def check(said: bytes) -> Said | None:
    """It is no 500, and JSON with the envelope, or gunicorn's own page."""
    if not said:
        return None  # a connection that is closed without a word: gunicorn has not seen a request
    answer = Said(said)
    assert answer.status != 500, said
    if answer.is_anothers:
        assert answer.status in (400, 403, 405, 414, 417, 431, 501, 505), said
        return answer
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"]), said
    if answer.status >= 400 and answer.body:
        error = json.loads(answer.body)
        assert error["error"].keys() == {"message", "type", "code", "param"}, said
        assert error["request_id"] == answer.headers["x-request-id"], said
    return answer


def tally(answers: Iterable[Said | None]) -> str:
    """Say how many of each status there were; those that the service did not give apart."""
    found = Counter("closed" if a is None else f"{a.status}{' not by the service' * a.is_anothers}" for a in answers)
    return ", ".join(f"{number} x {status}" for status, number in sorted(found.items()))


@pytest.fixture
def service(serve: Callable[..., Service]) -> Iterator[Service]:
    """A service that must be the same one, with all its lines, when the test is over."""
    running = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, MAX_BODY_BYTES=LIMIT)
    workers = running.workers()
    yield running
    assert running.generate().ok
    assert running.chat(stream=True).status == 200
    assert running.workers() == workers
    assert all({"request_id", "status", "timestamp"} <= line.keys() for line in running.lines())
    assert "Traceback" not in running.output(), running.output()[-3000:]


DEEP = 100_000
JSON_BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n\t",
    "cut short": b"{",
    "cut in a string": b'{"prompt": "Hi',
    "after the end": GENERATE + b"x",
    "two": GENERATE * 2,
    "comma": b'{"prompt": "Hi",}',
    "single quotes": b"{'prompt': 'Hi'}",
    "comment": GENERATE + b"// Hi",
    "form": b"prompt=Hi",
    "null": b"null",
    "number": b"1",
    "string": b'"Hi"',
    "list": b"[" + GENERATE + b"]",
    "duplicate": b'{"prompt": "a", "prompt": "b"}',
    "duplicate escaped": b'{"prompt": "a", "pr\\u006fmpt": "b"}',
    "duplicate deep": b'{"prompt": "a", "x": {"y": [{"z": 1, "z": 2}]}}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "Infinity": b'{"prompt": "a", "temperature": -Infinity}',
    "1e999": b'{"prompt": "a", "temperature": 1e999}',
    "21 digits": b'{"prompt": "a", "seed": 123456789012345678901}',
    "a million digits": b'{"prompt": "a", "seed": ' + b"9" * 1_000_000 + b"}",
    "a float of a million digits": b'{"prompt": "a", "temperature": 0.' + b"9" * 1_000_000 + b"}",
    "an exponent of a million digits": b'{"prompt": "a", "temperature": 1e-' + b"9" * 1_000_000 + b"}",
    "deep lists": b"[" * DEEP,
    "deep lists closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep schema": b'{"prompt": "a", "response_format": ' + b'{"a":' * 40 + b"1" + b"}" * 41,
    "wide lists": b'{"prompt": "a", "stop": [' + b"[]," * 300_000 + b"[]]}",
    "wide objects": b'{"prompt": "a", "stop": [' + b"{}," * 300_000 + b"{}]}",
    "many names": b'{"prompt": "a"' + b"".join(b', "%d": 1' % number for number in range(80_000)) + b"}",
    "colliding numbers": b'{"stop": [' + b",".join(b"%d" % (n * (2**61 - 1) % 10**20) for n in range(40_000)) + b"]}",
    "NUL escaped": b'{"prompt": "a\\u0000"}',
    "NUL raw": b'{"prompt": "a\x00"}',
    "high surrogate": b'{"prompt": "a\\ud83d"}',
    "low surrogate": b'{"prompt": "\\uDE00a"}',
    "surrogate raw": b'{"prompt": "a\xed\xa0\xbd"}',
    "overlong": b'{"prompt": "\xc0\xaf"}',
    "overlong NUL": b'{"prompt": "\xc0\x80"}',
    "five bytes": b'{"prompt": "\xf8\x88\x80\x80\x80"}',
    "beyond Unicode": b'{"prompt": "\xf4\x90\x80\x80"}',
    "latin-1": '{"prompt": "\xe4"}'.encode("latin-1"),
    "byte order mark": b"\xef\xbb\xbf" + GENERATE,
    "UTF-16": GENERATE.decode().encode("utf-16"),
    "UTF-16 no mark": GENERATE.decode().encode("utf-16-le"),
    "UTF-32": GENERATE.decode().encode("utf-32"),
    "UTF-7": b"+AHsAIgBwAHIAbwBtAHAAdAAiADoAIgBIAGkAIgB9-",
    "proto": b'{"__proto__": {"prompt": "a"}, "constructor": 1}',
    "line separators": '{"prompt": "a\u2028\u2029\x85"}'.encode(),
    "escape sequences": b'{"prompt": "\\u001b[2J\\u0007\\r\\n{}"}',
    "log line": b'{"prompt": "\\n{\\"request_id\\": \\"forged\\"}\\n"}',
    "wrong types": b'{"prompt": ["a"], "messages": "a", "model": 1, "stream": "yes", "stop": {}}',
    "numbers as strings": b'{"prompt": "a", "model": "m", "max_tokens": "5", "messages": []}',
    "huge integers": b'{"prompt": "a", "model": "m", "max_tokens": 99999999999999999999, "seed": -1e300}',
    "odd roles": b'{"model": "m", "messages": [{"role": "root", "content": "a"}]}',
    "odd parts": b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "x"}, 1, null, {}]}]}',
    "odd messages": b'{"model": "m", "messages": [null, 1, "a", [], {}]}',
    "many messages": b'{"model": "m", "messages": [' + b",".join([b'{"role":"user","content":""}'] * 30_000) + b"]}",
    "tokens for a prompt": b'{"model": "m", "prompt": [1, 2, 3]}',
    "prompts": b'{"model": "m", "prompt": ["a", "b"]}',
    "schema with a reference": (
        b'{"prompt": "a", "model": "m", "messages": [{"role": "user", "content": "a"}], "response_format": '
        b'{"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "http://127.0.0.1:1/"}}}}'
    ),
    "schema that refers to itself": b'{"prompt": "a", "response_format": {"$ref": "#"}}',
    "schema with a pattern": b'{"prompt": "a", "response_format": {"type": "string", "pattern": "(a+)+$"}}',
    "schema that is none": b'{"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}',
    "model of another": b'{"prompt": "a", "model": "openai/x\\u0000"}',
    "model with a line": b'{"prompt": "a", "model": "a\\r\\nX-Injected: 1"}',
}


def test_hostile_json(service: Service) -> None:
    """Whatever a body holds, each of the three routes answers in JSON, at once."""
    answers = []
    slowest = ("", 0.0)
    for path in PATHS:
        for name, body in JSON_BODIES.items():
            began = time.monotonic()
            answer = check(tell(service, post(body, path)))
            slowest = max(slowest, (name, time.monotonic() - began), key=lambda found: found[1])
            assert answer, name
            assert not answer.is_anothers, name
            assert "x-injected" not in answer.headers
            answers.append(answer)
            if b"prompt" not in body and b"messages" not in body:
                assert answer.status >= 400, name
    figure(15, f"{len(answers)} bodies: {tally(answers)}; the slowest, {slowest[0]}, {slowest[1] * 1000:.0f} ms")
    assert len(service.lines()) == len(answers)


TYPES = [
    "text/plain",
    "application/jsonp",
    "application/json; charset=utf-16",
    "multipart/form-data; boundary=x",
    "x",
    "",
]
LONG = "x" * 9_000
HEADERS: dict[str, tuple[str, ...]] = {
    **{f"type {kind}": (f"Content-Type: {kind}",) for kind in TYPES},
    **{f"encoding {kind}": (f"Content-Encoding: {kind}",) for kind in ("gzip", "br", "zstd", "identity, gzip", "")},
    "two types": ("Content-Type: application/json", "Content-Type: text/plain"),
    "long id": (f"X-Request-ID: {'a' * 65}",),
    "id with a blank": ("X-Request-ID: a b",),
    "id with quotes": ('X-Request-ID: "},{"',),
    "id with latin-1": ("X-Request-ID: \xe4\xff",),
    "id with a tab": ("X-Request-ID: a\tb",),
    "id with a line feed": ("X-Request-ID: a\nX-Injected: 1",),
    "id with a carriage return": ("X-Request-ID: a\rX-Injected: 1",),
    "id with NUL": ("X-Request-ID: a\x00b",),
    "id folded": ("X-Request-ID: a", " X-Injected: 1"),
    "two ids": ("X-Request-ID: a", "X-Request-ID: b"),
    "id percent-encoded": ("X-Request-ID: a%0d%0aX-Injected:%201",),
    "empty id": ("X-Request-ID:",),
    "traceparent zeros": (f"traceparent: 00-{'0' * 32}-{'0' * 16}-00",),
    "traceparent long": (f"traceparent: 00-{'a' * 32}-{'b' * 16}-01-{LONG[:4000]}",),
    "traceparent line feed": (f"traceparent: 00-{'a' * 32}-{'b' * 16}-01\nX-Injected: 1",),
    "two traceparents": (f"traceparent: 00-{'a' * 32}-{'b' * 16}-01", "traceparent: x"),
    "authorization latin-1": ("Authorization: Bearer \xe4\xff",),
    "authorization NUL": ("Authorization: Bearer a\x00b",),
    "authorization long": (f"Authorization: Bearer {LONG[:8000]}",),
    "authorization empty": ("Authorization:", "x-api-key:"),
    "authorization other": ('Authorization: Digest username="a", nonce="\'',),
    "two authorizations": ("Authorization: Bearer a", "Authorization: Bearer b"),
    "forwarded odd": ("X-Forwarded-For: ,,, 999.1.1.1, [::1]:80, unknown, ' OR 1=1",),
    "forwarded latin-1": ("X-Forwarded-For: \xff\xfe",),
    "forwarded long": ("X-Forwarded-For: " + "1.2.3.4, " * 800,),
    "forwarded line feed": ("X-Forwarded-For: 1.2.3.4\nX-Injected: 1",),
    "many forwarded": ("X-Forwarded-For: 1.2.3.4",) * 60,
    "script name": ("SCRIPT_NAME: /generate", "X-Script-Name: /x", "REMOTE_USER: root"),
    "prefix": ("X-Forwarded-Prefix: /x\xff", "X-Forwarded-Host: evil", "X-Forwarded-Proto: gopher"),
    "overridden method": ("X-HTTP-Method-Override: DELETE",),
    "expect": ("Expect: 100-continue",),
    "odd expect": ("Expect: 200-ok",),
    "upgrade": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
    "websocket": ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"),
    "keep-alive": ("Connection: keep-alive",),
    "origin": ("Origin: null\xff",),
    "cookie": (f"Cookie: {LONG[:8000]}", "Cookie: a=b; a=c"),
    "range": ("Range: bytes=0-1,5-", "If-None-Match: *"),
    "no name": (": x",),
    "no colon": ("X-Nothing",),
    "blank before the colon": ("X-Blank : x",),
    "name with control characters": ("X-\x01: x",),
    "underscores": ("X_Request_ID: a", "Content_Length: 5"),
    "long header": (f"X-Long: {LONG}",),
    "many headers": tuple(f"X-{number}: x" for number in range(101)),
}
HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"
RAW: dict[str, bytes] = {
    "chunk size that is none": chunked(b"xyz\r\n", GENERATE),
    "negative chunk": chunked(b"-1\r\n", GENERATE),
    "chunk with 0x": chunked(b"0x10\r\n" + GENERATE + b"\r\n"),
    "chunk with an underscore": chunked(b"1_0\r\n" + GENERATE + b"\r\n"),
    "chunk with a plus": chunked(b"+10\r\n" + GENERATE + b"\r\n"),
    "chunk with a blank": chunked(b" 10 \r\n" + GENERATE + b"\r\n"),
    "chunk larger than it is": chunked(b"ffff\r\n" + GENERATE, end=b""),
    "chunk smaller than it is": chunked(b"2\r\n" + GENERATE + b"\r\n"),
    "chunk of 2^64": chunked(b"10000000000000000\r\n" + GENERATE),
    "chunk of 5,000 digits": chunked(b"f" * 5_000 + b"\r\n" + GENERATE),
    "chunk size without end": chunked(b"0" * 200_000),
    "chunk extension": chunked(b'10;a="b"\r\n' + GENERATE + b"\r\n"),
    "chunk extension, long": chunked(b"10;" + b"a" * 200_000 + b"\r\n" + GENERATE + b"\r\n"),
    "chunks ended by line feeds": chunked(b"10\n" + GENERATE + b"\n", end=b"0\n\n"),
    "chunks of one byte": chunked(*(chunk(GENERATE[i : i + 1]) for i in range(len(GENERATE)))),
    "no last chunk": chunked(chunk(GENERATE), end=b""),
    "trailers": chunked(chunk(GENERATE), end=b"0\r\nX-Request-ID: a\r\nAuthorization: Bearer x\r\n\r\n"),
    "trailers, bad": chunked(chunk(GENERATE), end=b"0\r\nno colon\r\n\r\n"),
    "trailers, long": chunked(chunk(GENERATE), end=b"0\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
    "negative length": post(GENERATE, length=-1),
    "length with a plus": post(GENERATE, length="+16"),
    "length that is none": post(GENERATE, length="sixteen"),
    "length with an underscore": post(GENERATE, length="1_6"),
    "length of two": post(GENERATE, length="16, 16"),
    "length, two headers": post(GENERATE, "/generate", "Content-Length: 16", "Content-Length: 16"),
    "length, two that differ": post(GENERATE, "/generate", "Content-Length: 16", "Content-Length: 5"),
    "length empty": post(GENERATE, length=""),
    "length of Arabic digits": post(GENERATE, length="\xb2\xb3"),
    "length of 10^30": post(GENERATE, length=10**30),
    "length of 5,000 digits": post(GENERATE, length="9" * 5_000),
    "length too long": post(GENERATE, length=1000),
    "length too short": post(GENERATE, length=5),
    "no length": post(b"", "/generate", "Content-Length: 0")[:-4].replace(b"Content-Length: 0", b"X: x") + b"\r\n\r\n",
    "length and chunks": framed("Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunks and length": framed("Transfer-Encoding: chunked", "Content-Length: 5"),
    "coding unknown": post(GENERATE, "/generate", "Transfer-Encoding: xchunked"),
    "coding identity": post(GENERATE, "/generate", "Transfer-Encoding: identity"),
    "coding gzip, chunked": framed("Transfer-Encoding: gzip, chunked"),
    "coding chunked, gzip": framed("Transfer-Encoding: chunked, gzip"),
    "coding twice": framed(*["Transfer-Encoding: chunked"] * 2),
    "coding with a tab": framed("Transfer-Encoding:\tchunked"),
    "coding with a vertical tab": framed("Transfer-Encoding: \x0bchunked"),
    "coding in capitals": framed("Transfer-Encoding: CHUNKED"),
    "coding, blank before the colon": framed("Transfer-Encoding : chunked"),
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/1.0": b"POST /generate HTTP/1.0\r\n" + HEAD + b"Content-Length: 16\r\n\r\n" + GENERATE,
    "HTTP/1.0, chunks": b"POST /generate HTTP/1.0\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(GENERATE),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /health HTTP/9.9\r\n\r\n",
    "HTTP/1.11": b"GET /health HTTP/1.11\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "PROXY": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + post(GENERATE),
    "PROXY v2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + post(GENERATE),
    "only line ends": b"\r\n" * 10_000,
    "NULs": bytes(10_000),
    "nothing": b"",
    "half a request line": b"POST /gen",
    "half a head": b"POST /generate HTTP/1.1\r\nHost: loc",
    "line feeds only": post(GENERATE).replace(b"\r\n", b"\n"),
    "no host": b"POST /generate HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n" + GENERATE,
    "two hosts": post(GENERATE, "/generate", "Host: other"),
    "odd host": post(GENERATE).replace(b"Host: localhost", b"Host: a b/\\@\xff:99999"),
    "pipelined": post(GENERATE) * 20,
    "smuggled": post(GENERATE + b"\r\n\r\n" + post(GENERATE, "/config")),
    "long method": b"X" * 10_000 + b" /generate HTTP/1.1\r\n" + HEAD + b"\r\n",
    "odd method": b"G\x00T /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "method in small letters": b"post /generate HTTP/1.1\r\n" + HEAD + b"Content-Length: 16\r\n\r\n" + GENERATE,
    **{
        f"method {method}": f"{method} /generate HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")
    },
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
}  # fmt: skip
TARGETS = [
    *("//generate", "/generate/", "/generate/../config", "/./generate", "/generate/..%2fconfig", "/%2e%2e/config"),
    *("/..", "/../../etc/passwd", "/v1/../config", "/v1//chat/completions", "/generate;x=1", "/generate?x=1"),
    *("/generate#x", "/generate%00", "/%00", "/generate%0d%0aX-Injected:%201", "/%c0%ae%c0%ae/", "/%ff%fe", "/%"),
    *("/%zz", "/\xff", "/generate\\..\\config", "/GENERATE", "*", "generate", "http://evil/generate", "http:///"),
    *("http://[::1/generate", "https://evil:99999/generate", "gopher://x/", "//evil/generate", "/?" + "a=b&" * 1000),
    *("/" + "a" * 3_900, "/" + "a" * 9_000, "/" + "../" * 1_000, "/v1/models/" + "%2f" * 500, "/v1/models/%00\xff"),
    *("/v1/models/..%2f..%2fconfig", "/v1/models/{}", "/v1/models/%0d%0a", "/docs/../config", "/docs/%2e%2e/config"),
    *("/docs/..%2f..%2f..%2fwsgi.py", "/docs//etc/passwd", "/openapi.json?x=%ff", "/metrics?name[]=%ff", "/health?x"),
]


def test_hostile_http(service: Service) -> None:
    """Whatever stands around a body: odd framings, headers and targets, and bytes that are no HTTP."""
    sent = {name: post(GENERATE, "/generate", *headers) for name, headers in HEADERS.items()} | RAW
    for target in TARGETS:
        sent[f"GET {target:.40}"] = post(b"", target).replace(b"POST", b"GET", 1)
        sent[f"POST {target:.40}"] = post(GENERATE, target)
    answers, generated = {}, 0
    for name, data in sent.items():
        said = tell(service, data, is_all=False)
        answers[name] = check(said)
        generated += said.count(b"\nX-LLM-Backend: ")
        assert b"\nX-Injected" not in said, name
        assert said.count(b"HTTP/1.1 ") <= (1 if "/" in name else 20), name  # more only where more was sent
    figure(15, f"{len(sent)} odd requests: {tally(answers.values())}")

    # a line for each request that came to one of the three routes, and none that is forged
    assert {line["operation"] for line in service.lines()} <= {"generate", "chat", "completion"}
    assert len(service.lines(status="ok")) == generated
    for name in ("length and chunks", "chunks and length", "coding chunked, gzip", "length, two that differ"):
        answer = answers[name]
        assert answer is None or answer.status >= 400, name  # two readers could see two requests in it
    for name in ("negative length", "no last chunk", "length too long", "chunk larger than it is"):
        answer = answers[name]
        assert answer is None or answer.status >= 400, name


def test_pipelined(service: Service) -> None:
    """Requests that are sent without waiting for answers are answered in their order."""
    bodies = [b'{"prompt": "%s"}' % (b"a" * number) for number in range(20)]
    said = tell(service, b"".join(map(post, bodies)), is_all=False)
    assert [int(number) for number in re.findall(rb"The prompt has (\d+) characters", said)] == list(range(1, 20))


def mutated(data: bytes) -> bytes:
    """Change, drop, double or insert some bytes anywhere."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 5)):
        place = random.randrange(len(changed) or 1)
        span = slice(place, place + random.choice((0, 1, 1, 4, 30)))
        piece = random.choice((b"", bytes(changed[span]) * 2, random.randbytes(3), random.choice(TOKENS)))
        changed[span] = piece
    return bytes(changed)


TOKENS = (
    *(b"\r\n", b"\n", b"\x00", b'"', b"{", b"[", b"\\u", b"\\ud800"),
    *(b"\xff", b"1e999", b"-", b": ", b"%00", b"0\r\n\r\n"),
)


def test_mutated_requests(service: Service) -> None:
    """Good requests with random damage: the same holds."""
    seed = random.randrange(2**32)
    random.seed(seed)
    chat = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true, "stop": ["a"]}'
    odd = b'{"prompt": "H\\u00e4 \xf0\x9f\x99\x82", "temperature": 0.5, "max_tokens": 4.0, "seed": -7, "details": true}'
    good = [post(odd), post(chat, CHAT), post(GENERATE, "/v1/completions"), chunked(chunk(odd[:30]), chunk(odd[30:]))]
    answers = []
    for _ in range(count(400, 10_000)):
        data = mutated(random.choice(good))
        try:
            answers.append(check(tell(service, data, is_all=False)))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {data!r}") from error
    figure(15, f"seed {seed}: {len(answers)} damaged requests: {tally(answers)}")


SIZE = 100_000_000
PART = b" " * 1_000_000


def by_length() -> Iterator[bytes]:
    yield post(b"", length=SIZE)
    yield from [PART] * (SIZE // len(PART))


def by_chunks() -> Iterator[bytes]:
    yield post(b"", "/generate", "Transfer-Encoding: chunked")
    yield from [chunk(PART)] * (SIZE // len(PART))
    yield b"0\r\n\r\n"


def padded() -> Iterator[bytes]:
    """JSON, blanks over the limit, and what is none: cut at the limit, it would be valid."""
    yield post(b"", "/generate", "Transfer-Encoding: chunked")
    yield chunk(GENERATE) + chunk(b" " * LIMIT) + chunk(b"garbage") + b"0\r\n\r\n"


def padded_by_one() -> Iterator[bytes]:
    yield post(b"", "/generate", "Transfer-Encoding: chunked")
    yield chunk(GENERATE + b" " * (LIMIT - len(GENERATE) + 1)) + b"0\r\n\r\n"


def with_expect() -> Iterator[bytes]:
    yield post(b"", "/generate", "Expect: 100-continue", length=SIZE)


def test_large_bodies(service: Service) -> None:
    """A body over the limit is a 413 within a second, and takes no memory."""
    for path in PATHS:
        found = []
        for way in (by_length, by_chunks, padded, padded_by_one, with_expect):
            assert service.generate().ok
            first, *rest = (part.replace(b"/generate", path.encode(), 1) for part in way())
            with memory_grows_by(service, 10) as megabytes:
                began = time.monotonic()
                said = tell(service, [first, *rest])
                seconds = time.monotonic() - began
            answer = check(said)
            assert answer, f"{way.__name__}: the connection broke before its answer"
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (413, "body_too_large"), way.__name__
            assert seconds <= 1, way.__name__
            found.append(f"{way.__name__} {seconds:.2f} s +{max(megabytes):.0f} MB")
        figure(16, f"{path}: 413: {', '.join(found)}")
    exact = check(tell(service, chunked(chunk(GENERATE + b" " * (LIMIT - len(GENERATE))))))
    assert exact
    assert exact.status == 200  # the limit itself is allowed


def test_refused_on_a_kept_connection(serve: Callable[..., Service]) -> None:
    """Who is refused before the body is read may ask again on the connection, unless the answer says that it closes."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, API_KEYS=f"me:{'k' * 32}")
    kept = []
    for size in (0, 1_000, 60_000, 70_000, 3_000_000):
        for path, status in (("/generate", 401), ("/nothing", 404), ("/health", 405)):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
            for _ in range(3):
                connection.request("POST", path, b"a" * size, {"Content-Type": "application/json"})
                with connection.getresponse() as answer:
                    assert (answer.status, len(answer.read()) > 0) == (status, True), (path, size)
                if connection.sock is None:  # the answer said so
                    break
                connection.auto_open = 0
            kept.append((size, connection.sock is not None))
            connection.close()
    assert {size for size, is_kept in kept if is_kept} == {0, 1_000, 60_000}


@pytest.mark.parametrize("framing", ["Content-Length: 100000000000", "Transfer-Encoding: chunked"])
def test_flood(service: Service, framing: str) -> None:
    """A body without end that nobody wants is not read for ever: others are answered, and it takes no memory."""
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", service.port), timeout=5) as sock:
                sock.sendall(f"POST /nothing HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
                while not over.is_set():
                    sock.sendall(chunk(PART))

    with memory_grows_by(service, 20) as megabytes, ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood)
        try:
            slowest = max(service.get("/health/live").seconds for _ in range(100))
        finally:
            over.set()
        flooding.result()
    figure(16, f"others during a flood ({framing}): the slowest {slowest:.2f} s, +{max(megabytes):.0f} MB")
    assert slowest <= 1


def test_refused_while_sending(service: Service) -> None:
    """A client that is refused while it still sends reads its answer to the end: its connection is not reset."""
    said = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
        sock.sendall(post(b" " * 100_000, length=SIZE))
        while received := sock.recv(65_536):
            said += received
    assert Said(said).status == 413
