"""What holds for every backend behind HTTP: retries, keys, bounds, and a session that trusts nothing around it."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from asking import Log, Serve, ask, error_of, lines_of, outcomes, texts_of
from faults.upstreams import Peer, upstream
from providers import (
    AT_ONCE,
    CLAUDE,
    OLLAMA,
    OPENAI,
    PROVIDERS,
    FarEnd,
    Provider,
    Socket,
    check_fallback,
    http,
    http_chunked,
)
from urllib3.exceptions import ProtocolError

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.backends.http.base import MAX_ANSWER_BYTES
from llm_api.backends.http.connections import Adapter, Call, _Body
from llm_api.errors import ServerError
from llm_api.exchange import attempts as generator
from llm_api.runtime.deadline import Deadline

TCP = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
KEYED = [provider for provider in PROVIDERS if provider.key]
every_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=str)
every_keyed_provider = pytest.mark.parametrize("provider", KEYED, ids=str)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve the pauses between retries so short that tests can wait for them."""
    monkeypatch.setattr(generator, "FIRST_PAUSE", 0.001)


# Retries


@every_provider
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 520, 529])
def test_retried_status(
    make_client: Serve, far_end: FarEnd, log_lines: Log, provider: Provider, status: int, stream: bool
) -> None:
    """These are asked again (docs/providers.md, 1.5), and a later success is the answer."""
    for _ in range(2):
        far_end.post(provider.url, status=status, headers=AT_ONCE)
    far_end.post(provider.url, **({"body": provider.stream("Hello")} if stream else {"json": provider.answer("Hello")}))
    reply = ask(make_client(**provider.settings, max_retries=2), stream=stream)
    assert (texts_of(reply) if stream else [reply.json["response"]]) == ["Hello"]
    assert "X-LLM-Fallback" not in reply.headers
    assert [name for name, _ in outcomes(log_lines()[-1])] == [provider.name] * 3
    assert outcomes(log_lines()[-1])[-1] == (provider.name, "ok")


@every_provider
@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 405, 410, 413, 422])
def test_status_that_is_not_retried(
    make_client: Serve, far_end: FarEnd, log_lines: Log, provider: Provider, status: int
) -> None:
    """Asking again would change nothing: one try."""
    far_end.post(provider.url, status=status, json={"error": "no"}, headers=AT_ONCE)
    assert ask(make_client(**provider.settings, max_retries=2)).status_code >= 400
    assert len(far_end.calls) == 1
    assert len(log_lines()[-1]["attempts"]) == 1


@every_provider
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_number_of_retries(
    make_client: Serve, far_end: FarEnd, log_lines: Log, provider: Provider, retries: int
) -> None:
    """MAX_RETRIES is the number of further tries; then the fallback answers."""
    far_end.post(provider.url, status=500, headers=AT_ONCE)
    reply = ask(make_client(**provider.settings, max_retries=retries, llm_fallback=("stub",)))
    assert reply.headers["X-LLM-Fallback"] == "server_error"
    assert len(far_end.calls) == retries + 1
    assert outcomes(log_lines()[-1]) == [(provider.name, "server_error")] * (retries + 1) + [("stub", "ok")]


@every_provider
@pytest.mark.parametrize(
    ("status", "said", "calls"), [(500, "false", 1), (429, "false", 1), (403, "true", 3), (500, "true", 3)]
)
def test_x_should_retry(
    make_client: Serve, far_end: FarEnd, provider: Provider, status: int, said: str, calls: int
) -> None:
    """The server's word on retrying beats the status (docs/providers.md, 1.5)."""
    far_end.post(provider.url, status=status, headers={"x-should-retry": said, **AT_ONCE})
    ask(make_client(**provider.settings, max_retries=2))
    assert len(far_end.calls) == calls


@every_provider
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", ["121", "3600"])
def test_too_long_a_wait(make_client: Serve, far_end: FarEnd, provider: Provider, status: int, asked: str) -> None:
    """Who asks for more than 120 s isn't asked again, and the client learns how long to wait."""
    far_end.post(provider.url, status=status, headers={"Retry-After": asked})
    reply = ask(make_client(**provider.settings, max_retries=2, request_timeout=3600))
    assert (reply.status_code, reply.headers["Retry-After"]) == (status, asked)
    assert len(far_end.calls) == 1


def test_wait_beyond_the_deadline(make_client: Serve, far_end: FarEnd) -> None:
    """A wait that the deadline doesn't allow isn't begun: the fallback answers at once."""
    far_end.post(OPENAI.url, status=429, headers={"Retry-After": "60"})
    reply = ask(make_client(**OPENAI.settings, max_retries=2, request_timeout=30, llm_fallback=("stub",)))
    assert reply.headers["X-LLM-Fallback"] == "rate_limited"
    assert len(far_end.calls) == 1


@pytest.mark.parametrize("header", ["Retry-After", "retry-after-ms"])
@pytest.mark.parametrize(
    "said",
    [
        *("", "soon", "-1", "0", "nan", "inf", "1e999"),
        "Mon, 23 Nov 2020 10:00:00 GMT",
        "Mon, 32 Nov 2026 10:00:00 GMT",
        "Mon, 23 Nov 99999999999999999999 10:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
    ],
)
@pytest.mark.usefixtures("no_pause")
def test_useless_waits(make_client: Serve, far_end: FarEnd, header: str, said: str) -> None:
    """A wait that is past or makes no sense is as good as none: the usual pause, and an honest error at the end."""
    far_end.post(OPENAI.url, status=429, headers={header: said})
    reply = ask(make_client(**OPENAI.settings, max_retries=1))
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "1")
    assert len(far_end.calls) == 2


def test_date_in_retry_after(make_client: Serve, far_end: FarEnd) -> None:
    """An HTTP date is read as the seconds until then."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90.5), usegmt=True)
    far_end.post(OPENAI.url, status=503, headers={"Retry-After": date})
    reply = ask(make_client(**OPENAI.settings))
    assert 80 <= int(reply.headers["Retry-After"]) <= 91


def test_milliseconds_come_first(make_client: Serve, far_end: FarEnd) -> None:
    """retry-after-ms beats Retry-After."""
    far_end.post(OPENAI.url, status=429, headers={"retry-after-ms": "40000", "Retry-After": "7"})
    assert ask(make_client(**OPENAI.settings)).headers["Retry-After"] == "40"


# Connections


@every_provider
@pytest.mark.parametrize(
    ("error", "status", "code", "calls"),
    [
        (requests.ConnectionError("refused"), 503, "unreachable", 3),
        (requests.ConnectTimeout("slow"), 503, "unreachable", 3),
        (requests.exceptions.SSLError("bad certificate"), 503, "unreachable", 1),
        (requests.ConnectionError(ProtocolError("aborted")), 502, "server_error", 1),
        (requests.exceptions.ChunkedEncodingError("cut"), 502, "server_error", 1),
    ],
    ids=["refused", "connect timeout", "TLS", "dropped", "cut"],
)
@pytest.mark.usefixtures("no_pause")
def test_connection_error(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    provider: Provider,
    error: Exception,
    status: int,
    code: str,
    calls: int,
) -> None:
    """Only a connection that was never made is tried again: a POST that was sent may have been executed."""
    far_end.post(provider.url, body=error)
    alone = ask(make_client(**provider.settings, max_retries=2))
    assert (alone.status_code, error_of(alone)["code"]) == (status, code)
    assert outcomes(log_lines()[-1]) == [(provider.name, code)] * calls
    backed = ask(make_client(**provider.settings, max_retries=2, llm_fallback=("stub",)))
    assert (backed.headers["X-LLM-Fallback"], log_lines()[-1]["fallback_reason"]) == (code, code)


@pytest.mark.usefixtures("no_pause")
def test_nobody_listens(make_client: Serve, log_lines: Log) -> None:
    """A port that is closed is unreachable, and the message says so without an address."""
    with Socket(None) as far_end:
        address = far_end.address
    reply = ask(make_client(**OPENAI.at(address), max_retries=1))
    assert (reply.status_code, error_of(reply)["code"]) == (503, "unreachable")
    assert error_of(reply)["message"] == "openai can't be reached: the connection was refused"
    assert outcomes(log_lines()[-1]) == [("openai", "unreachable")] * 2


@every_provider
def test_silence(make_client: Serve, log_lines: Log, provider: Provider) -> None:
    """A far end that takes the prompt and says nothing is a timeout, after one try."""
    with Socket(None) as far_end:
        reply = ask(make_client(**provider.at(far_end.address), max_retries=2, request_timeout=0.2))
        assert (reply.status_code, error_of(reply)["code"]) == (504, "timeout")
        assert len(far_end.requests) == 1
    assert outcomes(log_lines()[-1]) == [(provider.name, "timeout")]


@every_provider
def test_connection_closed_without_an_answer(make_client: Serve, provider: Provider) -> None:
    """The prompt was sent, so it isn't sent again."""
    with Socket(b"") as far_end:
        reply = ask(make_client(**provider.at(far_end.address), max_retries=2))
        assert (reply.status_code, error_of(reply)["code"]) == (502, "server_error")
        assert len(far_end.requests) == 1


@every_provider
def test_check_is_not_repeated(provider: Provider) -> None:
    """There is one retry loop in the program, and a check is outside it: a GET that fails is sent once."""
    with Socket(b"") as far_end:
        backend = make_backend(provider.name, Settings(**provider.at(far_end.address)))
        with pytest.raises(ServerError):
            backend.check(Deadline(5))
        assert len(far_end.requests) == 1


@every_provider
def test_bytes_one_by_one(make_client: Serve, provider: Provider) -> None:
    """However the network cuts a stream, in characters and line ends too, its text is whole."""
    body = provider.stream("caf\u00e9", "\U0001f600\u2028").replace(b"\n", b"\r\n")
    with Socket(http_chunked([body[at : at + 1] for at in range(len(body))])) as far_end:
        reply = ask(make_client(**provider.at(far_end.address)), stream=True)
    assert texts_of(reply) == ["caf\u00e9", "\U0001f600\u2028"]


@every_provider
@pytest.mark.parametrize("cut", ["chunked", "by length", "by close"])
def test_connection_that_breaks_in_a_stream(make_client: Serve, log_lines: Log, provider: Provider, cut: str) -> None:
    """However a stream is framed, one that breaks off ends with an error line, and is logged as one."""
    body = provider.cut("Hel")
    head = b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 9999\r\n" if cut == "by length" else b"") + b"\r\n"
    with Socket(http_chunked([body], whole=False) if cut == "chunked" else head + body) as far_end:
        reply = ask(make_client(**provider.at(far_end.address), max_retries=2), stream=True)
        assert len(far_end.requests) == 1
    first, last = lines_of(reply)
    assert first == {"response": "Hel"}
    assert (last["done"], last["error"]["code"]) == (True, "invalid_answer")
    assert (log_lines()[-1]["status"], log_lines()[-1]["error"]["code"]) == ("error", "invalid_answer")


@every_provider
@pytest.mark.parametrize("cut", ["chunked", "by length", "by close"])
def test_connection_that_breaks_in_an_answer(make_client: Serve, provider: Provider, cut: str) -> None:
    """A whole answer that breaks off is a failing backend, and isn't asked for twice."""
    body = json.dumps(provider.answer("Hello")).encode()[:-5]
    head = b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 9999\r\n" if cut == "by length" else b"") + b"\r\n"
    with Socket(http_chunked([body], whole=False) if cut == "chunked" else head + body) as far_end:
        reply = ask(make_client(**provider.at(far_end.address), max_retries=2))
        assert len(far_end.requests) == 1
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")


WHOLE = json.dumps(OLLAMA.answer("Hello")).encode()
SAID = b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE), WHOLE)


LENGTH = b"%d" % len(WHOLE)
HEADS = {
    name: b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body
    for name, head, body in [
        ("folded length", b"Content-Length:\r\n " + LENGTH, WHOLE + b"x"),
        ("folded coding", b"Transfer-Encoding:\r\n\tchunked", SAID),
        ("blank before the colon", b"Content-Length : " + LENGTH, WHOLE + b"x"),
        (
            "lengths that are the same",
            b"Content-Length: %s\r\nContent-Length: %s, %s" % (LENGTH, LENGTH, LENGTH),
            WHOLE,
        ),
        ("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", SAID),
        ("identity", b"Transfer-Encoding: identity\r\nContent-Length: " + LENGTH, WHOLE + b"x"),
    ]
} | {
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + http(WHOLE),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + http(WHOLE),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE,
    "line feeds": b"HTTP/1.1 200 OK\ncontent-length:%s  \nX-Nothing\n: x\n\n%s and more" % (LENGTH, WHOLE),
    "chunked": b"HTTP/1.1 200\r\nTRANSFER-ENCODING: Chunked\r\nContent-Length: 5\r\n\r\n" + SAID,
    "many headers": http(WHOLE, "200 OK", *(f"X-{number}: {number}" for number in range(90))),
    "a long header": http(WHOLE, "200 OK", f"X-Long: {'x' * 60_000}", "X-Latin: \xe4"),
}


@pytest.mark.parametrize("reply", HEADS.values(), ids=HEADS)
def test_heads_that_are_read(make_client: Serve, reply: bytes) -> None:
    """What may stand before an answer's body, and the ways it says where that ends (RFC 9112, section 6.3)."""
    with Socket(reply) as far_end:
        answer = ask(make_client(**OLLAMA.at(far_end.address)))
    assert (answer.status_code, answer.json) == (200, {"response": "Hello"})


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 10\r\nContent-Length: 9",
        "Content-Length: -1",
        "Content-Length: 1_0",
        f"Content-Length: {'9' * 5_000}",
        "Content-Length: \xb2",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: deflate",
        "\r\n".join(f"X-{number}: {number}" for number in range(101)),
        f"X-Long: {'x' * 70_000}",
    ],
    ids=["two lengths", "negative", "underscore", "digits", "superscript", "gzip", "deflate", "many", "long"],
)
def test_heads_that_are_refused(make_client: Serve, head: str) -> None:
    """Where an answer ends must be plain, and its head short; else it is a failing backend's, asked once."""
    with Socket(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode("latin-1") + WHOLE) as far_end:
        answer = ask(make_client(**OLLAMA.at(far_end.address), max_retries=2))
        assert len(far_end.requests) == 1
    assert (answer.status_code, error_of(answer)["code"]) == (502, "invalid_answer")


@pytest.mark.parametrize(
    ("head", "connections"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: LENGTH", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\nConnection: keep-alive", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\nConnection: Close, x", 2),
        ("HTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\nConnection: x,\r\n close", 2),
        ("HTTP/1.0 200 OK\r\nContent-Length: LENGTH\r\nConnection: keep-alive", 2),
    ],
)
def test_connections_that_are_kept(make_client: Serve, head: str, connections: int) -> None:
    """A far end's connection is used again, unless its answer says that it won't be (RFC 9112, section 9.3)."""
    ports = []

    def answer(peer: Peer) -> None:
        ports.append(peer.port)
        peer.send(head.replace("LENGTH", str(len(WHOLE))).encode() + b"\r\n\r\n" + WHOLE)
        peer.stays = True

    with upstream(answer) as far_end:
        client = make_client(**OLLAMA.at(far_end.address))
        assert [ask(client).json for _ in range(2)] == [{"response": "Hello"}] * 2
    assert len(set(ports)) == connections


def test_a_host_that_dies_is_noticed() -> None:
    """Within 20 s, by the system: whether it owes an answer, or has not confirmed what was sent (tcp(7))."""
    with Socket(http(WHOLE)) as far_end:
        call = Call("POST", far_end.address, "/x", {}, b"{}", 5.0)
        with Adapter(far_end.address, None, 1).send(call):
            assert call.sock
            options = {name: call.sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in TCP}
            assert call.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, probes, unconfirmed = options.values()
    assert idle + interval * probes <= 20
    assert unconfirmed <= 20_000 - 1_000 * interval, "it is looked at when a probe is due"


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_body(make_client: Serve, status: int) -> None:
    """They end with their head, whatever it says of a body (RFC 9112, section 6.3): nobody waits for one."""

    def answer(peer: Peer) -> None:
        peer.send(f"HTTP/1.1 {status} No\r\nContent-Length: 9\r\n\r\n".encode())
        peer.wait_until_gone()

    with upstream(answer) as far_end:
        answered = ask(make_client(**OLLAMA.at(far_end.address), request_timeout=20, llm_fallback=("stub",)))
    assert (answered.status_code, answered.headers["X-LLM-Fallback"]) == (200, "invalid_answer")


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX-Cut", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_a_head_that_breaks_off(make_client: Serve, head: bytes) -> None:
    """No answer began, but the prompt was sent: it isn't sent again."""
    with Socket(head) as far_end:
        answer = ask(make_client(**OLLAMA.at(far_end.address), max_retries=2))
        assert len(far_end.requests) == 1
    assert (answer.status_code, error_of(answer)["code"]) == (502, "server_error")


def test_names_of_headers_in_any_letters(make_client: Serve) -> None:
    """HTTP's names have no case: a far end's Retry-After counts however it writes it."""
    with Socket(http(b"{}", "429 Too Many", "RETRY-AFTER: 300")) as far_end:
        answer = ask(make_client(**OLLAMA.at(far_end.address), max_retries=2))
        assert len(far_end.requests) == 1
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "300")


def test_not_http(make_client: Serve) -> None:
    """A far end that doesn't speak HTTP is a failing backend."""
    with Socket(b"SSH-2.0-OpenSSH_9.2\r\n") as far_end:
        reply = ask(make_client(**OLLAMA.at(far_end.address)))
    assert (reply.status_code, error_of(reply)["type"]) == (502, "backend_error")


@pytest.mark.parametrize("address", ["http://*.example/v1", "http://.example/v1", f"http://{'a' * 64}.example/v1"])
def test_address_that_is_none(make_client: Serve, log_lines: Log, address: str) -> None:
    """A base URL that `requests` can't take is a failing backend like any other: it falls back."""
    reply = ask(make_client(**OPENAI.at(address), llm_fallback=("stub",)))
    assert (reply.status_code, reply.headers.get("X-LLM-Backend")) == (200, "stub")
    assert log_lines()[-1]["fallback"] is True


# What an answer may be


@every_provider
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    ["", "<html><body>Welcome</body></html>", "[]", "null", '"text"', "{", "NaN", "[" * 100_000, '{"a": ' + "9" * 5000],
    ids=["empty", "HTML", "array", "null", "text", "cut", "NaN", "deep", "digits"],
)
def test_not_a_json_object(
    make_client: Serve, far_end: FarEnd, log_lines: Log, provider: Provider, stream: bool, body: str
) -> None:
    """A 200 without a JSON object is a failing backend; with a fallback the stub answers and says why."""
    far_end.post(provider.url, body=body)
    client = make_client(**provider.settings, max_retries=2, llm_fallback=("stub",))
    alone = ask(client, fallback=False, stream=stream)
    assert (alone.status_code, error_of(alone)["code"]) == (502, "invalid_answer")
    check_fallback(ask(client), log_lines()[-1], "invalid_answer", provider.name)


@every_provider
@pytest.mark.parametrize("body", ["[" * 100_000, "\xff\xfe", "null", '{"error": 5}', '{"error": {"message": {}}}'])
def test_odd_error_body(make_client: Serve, far_end: FarEnd, provider: Provider, body: str) -> None:
    """An error reply counts by its status, whatever its body is."""
    far_end.post(provider.url, status=503, body=body.encode("latin-1"))
    reply = ask(make_client(**provider.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (503, "overloaded")


@every_provider
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_compressed_answer(
    make_client: Serve, far_end: FarEnd, provider: Provider, stream: bool, encoding: str
) -> None:
    """It wasn't asked for, and could be a bomb: refused unread."""
    body = provider.stream("Hello") if stream else json.dumps(provider.answer("Hello")).encode()
    far_end.post(provider.url, body=gzip.compress(body), headers={"Content-Encoding": encoding})
    reply = ask(make_client(**provider.settings), stream=stream)
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    assert "compressed" in error_of(reply)["message"]


@every_provider
@pytest.mark.parametrize("status", [200, 500])
def test_too_large_an_answer(make_client: Serve, far_end: FarEnd, provider: Provider, status: int) -> None:
    """Over 16 MiB nothing more is read, of errors as of answers."""
    body = json.dumps(provider.answer("Hello")).encode() + b" " * MAX_ANSWER_BYTES
    far_end.post(provider.url, body=body, status=status)
    reply = ask(make_client(**provider.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer" if status == 200 else "server_error")
    assert ("16,777,216 bytes" in error_of(reply)["message"]) == (status == 200)


def test_too_large_a_stream(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """A stream is bounded as well, and ends with an error line."""
    far_end.post(OLLAMA.url, body=OLLAMA.cut("Hel") + b" " * MAX_ANSWER_BYTES + OLLAMA.stream("lo"))
    first, last = lines_of(ask(make_client(**OLLAMA.settings), stream=True))
    assert (first["response"], last["error"]["code"], last["done"]) == ("Hel", "invalid_answer", True)
    assert log_lines()[-1]["error"]["code"] == "invalid_answer"


@pytest.mark.parametrize("status", ["200 OK", "500 Oops", "307 Moved", "302 Found"])
def test_no_more_is_read_than_allowed(make_client: Serve, status: str) -> None:
    """The far end can't hand over twice the bound, with a redirect's status neither."""
    whole = 2 * MAX_ANSWER_BYTES
    with Socket(http(b" " * whole, status, "Location: http://elsewhere.example/")) as far_end:
        reply = ask(make_client(**OPENAI.at(far_end.address)))
        assert reply.status_code == 502
    assert far_end.delivered < 1.5 * MAX_ANSWER_BYTES


# What surrounds the session


@every_provider
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(make_client: Serve, log_lines: Log, provider: Provider, status: int) -> None:
    """Another host gets neither the prompt nor the key; the far end is said to fail."""
    with Socket(http(b"{}")) as sink:
        moved = http(b"", f"{status} Moved", f"Location: {sink.address}{provider.path}")
        with Socket(moved) as far_end:
            reply = ask(make_client(**provider.at(far_end.address), max_retries=2))
            assert len(far_end.requests) == 1
        assert sink.requests == []
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    assert outcomes(log_lines()[-1]) == [(provider.name, "invalid_answer")]


@pytest.mark.parametrize("location", ["http://[", "//", "http://\u00ff", "x:", ""])
def test_redirect_to_nowhere(make_client: Serve, far_end: FarEnd, location: str) -> None:
    """An address that is none, in a redirect that isn't followed, does no harm."""
    far_end.post(OPENAI.url, status=307, headers={"Location": location})
    reply = ask(make_client(**OPENAI.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")


@every_provider
def test_netrc_is_ignored(
    make_client: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: Provider
) -> None:
    """A .netrc entry for the far end's host doesn't take our key's place, and isn't sent."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\ndefault login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Socket(http(json.dumps(provider.answer("Hello")).encode())) as far_end:
        assert ask(make_client(**provider.at(far_end.address))).json == {"response": "Hello"}
        (request,) = far_end.requests
    assert b"Basic" not in request
    assert (provider.key or "").encode() in request


@every_provider
def test_proxies_are_ignored(make_client: Serve, monkeypatch: pytest.MonkeyPatch, provider: Provider) -> None:
    """Proxy variables of the environment don't get prompts and keys."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Socket(http(b"{}")) as proxy, Socket(http(json.dumps(provider.answer("Hello")).encode())) as far_end:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        assert ask(make_client(**provider.at(far_end.address))).json == {"response": "Hello"}
        assert (proxy.requests, len(far_end.requests)) == ([], 1)


@every_provider
def test_request_on_the_wire(make_client: Serve, provider: Provider) -> None:
    """One POST to the right path, with its length, uncompressed and asking for nothing compressed."""
    with Socket(http(json.dumps(provider.answer("Hello")).encode())) as far_end:
        ask(make_client(**provider.at(far_end.address)))
        (request,) = far_end.requests
    head, _, body = request.partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first == f"POST {provider.path} HTTP/1.1"
    assert "Accept-Encoding: identity" in headers
    assert "Content-Type: application/json" in headers
    assert f"Content-Length: {len(body)}" in headers
    assert json.loads(body)["messages"] == [{"role": "user", "content": "Hi"}]


def test_password_in_an_address(make_client: Serve) -> None:
    """A far end behind basic authentication gets its user and password as a header, not in its path."""
    with Socket(http(json.dumps(OLLAMA.answer("Hello")).encode())) as far_end:
        address = far_end.address.replace("//", "//someone:secret@")
        assert ask(make_client(**OLLAMA.at(address))).json == {"response": "Hello"}
        (request,) = far_end.requests
    assert request.startswith(b"POST /api/chat HTTP/1.1\r\n")
    assert b"Authorization: Basic c29tZW9uZTpzZWNyZXQ=\r\n" in request


def test_cookies_are_not_kept(make_client: Serve) -> None:
    """What a far end sets in one client's answer isn't sent along with another client's prompt."""
    body = json.dumps(OPENAI.answer("Hello")).encode()
    with Socket(http(body, "200 OK", "Set-Cookie: session=of-somebody; Path=/")) as far_end:
        client = make_client(**OPENAI.at(far_end.address))
        for _ in range(2):
            assert ask(client).status_code == 200
        assert [b"cookie:" in request.lower() for request in far_end.requests] == [False, False]


# Keys


@pytest.mark.parametrize(
    ("provider", "variable"),
    list(zip(KEYED, ["OPENAI_API_KEY", "CLAUDE_API_KEY", "HF_API_KEY"], strict=True)),
    ids=[str(provider) for provider in KEYED],
)
@pytest.mark.parametrize("stream", [False, True])
def test_missing_key(
    make_client: Serve, far_end: FarEnd, log_lines: Log, provider: Provider, variable: str, stream: bool
) -> None:
    """Without its key a backend isn't asked: 503 not_configured, with the two ways to set it; or the fallback."""
    settings = provider.settings | {provider.key_setting: None}
    reply = ask(make_client(**settings, max_retries=2), stream=stream)
    assert (reply.status_code, error_of(reply)["code"]) == (503, "not_configured")
    message = error_of(reply)["message"]
    assert f"put {variable}=... into .env" in message
    assert f"export {variable}" in message
    assert outcomes(log_lines()[-1]) == [(provider.name, "not_configured")]
    check_fallback(
        ask(make_client(**settings, llm_fallback=("stub",))), log_lines()[-1], "not_configured", provider.name
    )
    assert len(far_end.calls) == 0


def echo(key: str, where: str) -> dict[str, Any]:
    """Return an error body that repeats the key."""
    words = f"Incorrect API key provided: {key}. Find yours at https://example."
    error: dict[str, Any] = {"message": "no", "type": "invalid_request_error", "code": None, "param": None}
    if where == "string":
        return {"error": words}
    if where == "cut":
        return {"error": error | {"message": "x" * (500 - len(key) + 1) + key}}
    return {"error": error | {where: words if where == "message" else key}}


@every_keyed_provider
@pytest.mark.parametrize("where", ["message", "string", "code", "param", "type", "cut"])
@pytest.mark.parametrize("status", [400, 401, 404])
def test_key_in_an_error(
    make_client: Serve, far_end: FarEnd, log_path: Path, provider: Provider, status: int, where: str
) -> None:
    """A far end that repeats the key in its error tells it to nobody: not to the client, not to the log."""
    assert provider.key
    far_end.post(provider.url, status=status, json=echo(provider.key, where))
    client = make_client(**provider.settings, llm_fallback=("stub",))
    said = [ask(client, fallback=fallback, stream=stream) for fallback in (False, True) for stream in (False, True)]
    shown = b"".join(reply.data + str(reply.headers).encode() for reply in said) + log_path.read_bytes()
    assert provider.key[:-1].encode() not in shown


@every_keyed_provider
@pytest.mark.parametrize("where", ["message", "type", "cut"])
def test_key_in_a_broken_stream(
    make_client: Serve, far_end: FarEnd, log_path: Path, provider: Provider, where: str
) -> None:
    """The same in the middle of a stream, where there is no status that could be told."""
    assert provider.key
    error = json.dumps({"type": "error", "error": echo(provider.key, where)["error"] | {"code": 500}})
    far_end.post(provider.url, body=provider.cut("Hel") + f"data: {error}\n\n".encode())
    reply = ask(make_client(**provider.settings), stream=True)
    told = lines_of(reply)[-1]["error"]
    assert told["code"] == "server_error"
    assert told["message"].startswith(f"{provider.name} broke off with an error")
    assert provider.key[:-1].encode() not in reply.data + log_path.read_bytes()


@every_keyed_provider
@pytest.mark.parametrize("error", [requests.ConnectionError, requests.ReadTimeout, requests.exceptions.InvalidHeader])
def test_key_in_an_exception(
    make_client: Serve,
    far_end: FarEnd,
    log_path: Path,
    provider: Provider,
    error: type[requests.RequestException],
) -> None:
    """The text of an exception of `requests` goes nowhere, since it may hold a key or an address."""
    far_end.post(provider.url, body=error(f"{provider.key} at {provider.url}"))
    reply = ask(make_client(**provider.settings))
    assert reply.status_code in (502, 503, 504)
    shown = reply.data + log_path.read_bytes()
    assert (provider.key or "").encode() not in shown
    assert provider.base.encode() not in shown


def test_connect_timeout_is_not_for_answers(make_client: Serve) -> None:
    """A provider may think for longer than CONNECT_TIMEOUT."""

    class Slow(Socket):
        def _answer(self, connection: socket.socket) -> None:
            threading.Event().wait(0.3)
            super()._answer(connection)

    with Slow(http(json.dumps(OPENAI.answer("Hello")).encode())) as far_end:
        settings = {"llm_backend": "openai", "openai_base_url": far_end.address, "openai_api_key": OPENAI.key}
        assert ask(make_client(**settings, connect_timeout=0.1)).json == {"response": "Hello"}


@pytest.mark.parametrize("end", ["\r\nX-Other: 1", "\n", "\x00", "é", "漢"])
def test_a_key_that_would_end_its_line_is_not_sent(make_client: Serve, end: str) -> None:
    """A program may give any key: what is no header's value goes nowhere, and the answer says which setting it is."""
    with Socket(b"") as far_end:
        reply = ask(
            make_client(**OPENAI.settings | {"openai_base_url": far_end.address, "openai_api_key": f"key{end}"})
        )
        assert far_end.requests == []
    assert (reply.status_code, error_of(reply)["code"]) == (503, "not_configured")


@pytest.mark.parametrize("length", [499, 500, 501, 10_000])
def test_words_of_a_far_end_are_bounded(make_client: Serve, far_end: FarEnd, length: int) -> None:
    """No more than 500 characters of a far end's reason reach the client."""
    error = {"type": "invalid_request_error", "message": "x" * length}
    far_end.post(CLAUDE.url, status=400, json={"error": error})
    message = error_of(ask(make_client(**CLAUDE.settings)))["message"]
    assert message == "claude refused the request: " + "x" * min(length, 500)


@pytest.mark.parametrize("name", ["code", "param"])
def test_codes_of_a_far_end_are_bounded(make_client: Serve, far_end: FarEnd, name: str) -> None:
    """A code or a field's name is a word, not a text of any length."""
    far_end.post(OPENAI.url, status=400, json={"error": {"message": "no", name: "x" * 1_000_000}})
    reply = ask(make_client(**OPENAI.settings))
    assert reply.status_code == 400
    assert len(reply.data) < 2_000


def test_bodies_in_any_frame() -> None:
    """A body comes out whole, however its chunks and what is read of them are cut; its end is told, and a cut one."""
    body = bytes(range(256)) * 3
    framed = b"".join(b"%X;x=1\r\n%s\r\n" % (n, body[at : at + n]) for at, n in ((0, 500), (500, 1), (501, 267)))
    for data, chunked, length in ((framed + b"0\r\nX: y\r\n\r\n", True, None), (body, False, len(body))):
        for size in (1, 2, 3, 7, 501, len(data)):
            read = _Body(SimpleNamespace(chunked=chunked, length=length))  # type: ignore[arg-type]
            parts = [data[at : at + size] for at in range(0, len(data), size)]
            got = b"".join(map(read.of, parts[:-1]))
            assert not read.is_over
            assert (got + read.of(parts[-1]), read.is_over) == (body, True)
        cut = _Body(SimpleNamespace(chunked=chunked, length=length))  # type: ignore[arg-type]
        cut.of(data[:400])
        with pytest.raises(IncompleteRead):
            cut.of(b"")


@pytest.mark.parametrize("size", [b"", b"-5", b"+5", b"0x5", b"5_0", b"5 5", b"f" * 17])
def test_chunks_whose_size_is_none(size: bytes) -> None:
    """What int() would take, and RFC 9112 does not, is refused: another reader may end the chunk elsewhere."""
    with pytest.raises(HTTPException, match="where a chunk ends"):
        _Body(SimpleNamespace(chunked=True, length=None)).of(size + b"\r\n")  # type: ignore[arg-type]
