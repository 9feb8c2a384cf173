"""deploy/nginx.conf as it is, before the service on a unix socket."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from faults.loads import CLIENT_SECONDS, PROJECT, Answer, Service, eventually, figure
from faults.upstreams import OPENAI, PIECES, UNTIL_CLOSED, Peer, Script, Upstream

from .parts import Nginx, replaced, unit

JSON = {"Content_Type": "application/json"}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def serve_unix(serve: Callable[..., Service], tmp_path: Path) -> Callable[..., Service]:
    """Return a starter of services with deploy/llm-api.service's settings."""
    [said] = unit()["Environment"]
    settings = dict(word.split("=", 1) for word in replaced(said, {"/run/llm-api": str(tmp_path)}).split())
    return lambda **more: serve(**settings, **more)


def check_envelope(answer: Answer, status: int, code: str, request_id: str | None = None) -> None:
    [body] = answer.objects
    assert (answer.status, body["error"]["code"]) == (status, code)
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers.get_all("X-Request-ID") == [body["request_id"]]
    assert request_id in (None, body["request_id"])


def test_answers(serve_unix: Callable[..., Service], front: Callable[..., Nginx]) -> None:
    """An answer is the service's, its id the client's or one that nginx made; both logs have it."""
    service = serve_unix(LLM_BACKEND="stub")
    nginx = front(f"unix:{service.path}")

    mine = nginx.generate(X_Request_ID="mine-1")
    unnamed = nginx.ask("POST", "/generate", '{"prompt": "Hi"}', **JSON)
    refused = nginx.generate(X_Request_ID="no id")

    assert mine.ok
    assert unnamed.ok
    assert mine.request_id == "mine-1"
    assert refused.request_id != "no id"
    ids = [answer.request_id for answer in (mine, unnamed, refused)]
    assert [line["request_id"] for line in service.lines()] == ids
    eventually(lambda: [name for _, name, _ in nginx.passed()] == ids)


def test_client_ip(serve_unix: Callable[..., Service], front: Callable[..., Nginx]) -> None:
    """The log has the address that nginx saw, whatever the client says of itself."""
    service = serve_unix(LLM_BACKEND="stub")
    nginx = front(f"unix:{service.path}")
    nginx.source = "127.0.0.2"

    nginx.generate()
    for said in ("10.9.8.7", "unix", "10.9.8.7, 127.0.0.1", ","):
        nginx.generate(X_Forwarded_For=said, Forwarded="for=10.9.8.7", X_Real_IP="10.9.8.7")

    assert [line["client_ip"] for line in service.lines()] == ["127.0.0.2"] * 5


@pytest.mark.parametrize(("path", "fields"), [("/generate", {"prompt": "Hi"}), ("/v1/chat/completions", CHAT)])
def test_stream(
    serve_unix: Callable[..., Service],
    behind: Callable[[Script], Upstream],
    front: Callable[..., Nginx],
    path: str,
    fields: dict[str, object],
) -> None:
    """Each piece of a stream, gzipped on its way, is at the client before the model makes the next one."""
    go_on = threading.Semaphore(0)

    def stepwise(peer: Peer) -> None:
        peer.send(UNTIL_CLOSED)
        for piece in (*OPENAI.pieces, OPENAI.end):
            peer.send(piece)
            assert go_on.acquire(timeout=10)

    nginx = front(f"unix:{serve_unix(**OPENAI.settings(behind(stepwise))).path}")
    text = ""
    with closing(_stream(nginx, path, fields)) as pieces:
        for piece in PIECES:
            while piece not in text:
                text += next(pieces)  # or the far end gives up, and the stream ends with an error
            go_on.release()
        go_on.release()
        text += "".join(pieces)
    assert text.rstrip().endswith("[DONE]" if "v1" in path else '"done": true, "finish_reason": "stop"}')


def _stream(nginx: Nginx, path: str, fields: dict[str, object]) -> Iterator[str]:
    """Yield what comes of a stream, as it comes."""
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=CLIENT_SECONDS)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    with closing(connection):
        connection.request("POST", path, json.dumps(fields | {"stream": True}), headers)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip"), answer.read()
        unzip = zlib.decompressobj(wbits=31)
        while part := answer.read1():
            yield unzip.decompress(part).decode()


def test_heartbeats(
    serve_unix: Callable[..., Service], behind: Callable[[Script], Upstream], front: Callable[..., Nginx]
) -> None:
    """A silent model's stream outlives nginx's patience: a comment comes every ten seconds."""
    go_on = threading.Event()

    def pausing(peer: Peer) -> None:
        peer.send(UNTIL_CLOSED + OPENAI.pieces[0])
        go_on.wait(CLIENT_SECONDS)
        peer.send(b"".join(OPENAI.pieces[1:]) + OPENAI.end)

    service = serve_unix(**OPENAI.settings(behind(pausing)))
    nginx = front(f"unix:{service.path}", replace={"proxy_read_timeout 130s": "proxy_read_timeout 11s"})
    began, text = time.monotonic(), ""
    with closing(_stream(nginx, "/v1/chat/completions", CHAT)) as pieces:
        while text.count(": keep-alive") < 1:
            text += next(pieces)
        first = time.monotonic() - began
        threading.Timer(2, go_on.set).start()  # past nginx's 11 s
        text += "".join(pieces)
    figure("nginx", f"the first heartbeat came after {first:.1f} s, the end after {time.monotonic() - began:.1f} s")
    assert 9 < first < 11
    assert text.rstrip().endswith("[DONE]")


LAST_CHUNK = b"\r\n0\r\n\r\n"


def _framed(served: Service | Nginx, path: str, fields: dict[str, object]) -> bytes:
    """Return all bytes of a stream, with their framing."""
    body = json.dumps(fields | {"stream": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    with served.connect() as sock:
        sock.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize(("path", "fields"), [("/generate", {"prompt": "Hi"}), ("/v1/chat/completions", CHAT)])
def test_stream_that_breaks(
    serve_unix: Callable[..., Service],
    behind: Callable[[Script], Upstream],
    front: Callable[..., Nginx],
    path: str,
    fields: dict[str, object],
) -> None:
    """After the error the connection ends without the last chunk, here and behind nginx, and nobody logs a traceback.

    Clients that skip the error must not see the end of an answer (RFC 9112, section 8).
    """
    whole = threading.Event()
    far_end = behind(lambda peer: peer.send(UNTIL_CLOSED + OPENAI.pieces[0] + OPENAI.end * whole.is_set()))
    service = serve_unix(**OPENAI.settings(far_end))
    nginx = front(f"unix:{service.path}")

    broken = [_framed(served, path, fields) for served in (service, nginx)]
    whole.set()
    complete = [_framed(served, path, fields) for served in (service, nginx)]

    for data in broken:
        assert data.count(b'"invalid_answer"') == 1
        assert data.endswith(b"\n\r\n")
        assert LAST_CHUNK not in data
    assert [data.endswith(LAST_CHUNK) for data in complete] == [True, True]
    lines = [(line["status"], line["error"] and line["error"]["code"]) for line in service.lines()]
    assert lines == [("error", "invalid_answer")] * 2 + [("ok", None)] * 2
    assert "Traceback" not in service.output()


NOTHING = b"Host: localhost\r\n\r\n"
REFUSED = {
    "no request at all": b"Hello\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "a long path": b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n" + NOTHING,
    "a long header": b"GET /health HTTP/1.1\r\nCookie: " + b"x" * 40_000 + b"\r\n" + NOTHING,
    "TRACE": b"TRACE /health HTTP/1.1\r\n" + NOTHING,
    "another coding": b"POST /generate HTTP/1.1\r\nTransfer-Encoding: br\r\n" + NOTHING,
    "another version": b"GET /health HTTP/9.1\r\n" + NOTHING,
    "two lengths": b"POST /generate HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + NOTHING,
    "a wrong chunk": b"POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + NOTHING + b"x\r\n\r\n",
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_no_request(front: Callable[..., Nginx], request_: bytes) -> None:
    """What nginx refuses to read is refused in the API's words."""
    nginx = front("127.0.0.1:9")  # where nobody is: the service is not asked
    with nginx.connect() as sock:
        sock.sendall(request_)
        head, _, body = b"".join(iter(lambda: sock.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_refusals(serve_unix: Callable[..., Service], front: Callable[..., Nginx]) -> None:
    """413 of nginx's own, and 502 when the service is not there, have the API's shape and the client's id."""
    service = serve_unix(LLM_BACKEND="stub", MAX_BODY_BYTES=2**24)
    nginx = front(f"unix:{service.path}")

    fits = nginx.ask("POST", "/generate", b" " * 2**23, **JSON)
    large = nginx.ask("POST", "/generate", b" " * (2**23 + 1), **JSON, X_Request_ID="large")
    service.stop()
    gone = nginx.generate(X_Request_ID="gone")

    assert fits.code == "malformed_json", (fits.body, str(fits.headers))
    check_envelope(large, 413, "body_too_large", "large")
    check_envelope(gone, 502, "bad_gateway", "gone")
    assert gone.headers["Retry-After"] == "1"


def test_timeout(
    serve_unix: Callable[..., Service], behind: Callable[[Script], Upstream], front: Callable[..., Nginx]
) -> None:
    """504 of nginx's own has the API's shape and the id of the line in the log; and the model is not asked on."""
    far_end = behind(lambda peer: peer.wait_until_gone())
    service = serve_unix(**OPENAI.settings(far_end))
    nginx = front(f"unix:{service.path}", replace={"proxy_read_timeout 130s": "proxy_read_timeout 1s"})

    late = nginx.generate()

    check_envelope(late, 504, "timeout", late.request_id)
    assert far_end.gone.wait(1)
    [line] = eventually(service.lines)
    assert (line["request_id"], line["status"]) == (late.request_id, "aborted")


def test_metrics_are_private(serve_unix: Callable[..., Service], front: Callable[..., Nginx]) -> None:
    """Only this machine sees /metrics, however it is written; all others see the API's 403."""
    nginx = front(f"unix:{serve_unix(LLM_BACKEND='stub').path}")
    assert nginx.generate().ok

    here = nginx.get("/metrics")
    nginx.source = "127.0.0.2"
    there = nginx.get("/metrics")
    others = [nginx.get(path) for path in ("/%6detrics", "//metrics", "/x/../metrics", "/metrics?x", "/metrics/")]
    spoofed = nginx.ask("GET", "/metrics", X_Forwarded_For="127.0.0.1")

    assert b"llm_api_requests_in_flight" in here.body
    check_envelope(there, 403, "forbidden")
    check_envelope(spoofed, 403, "forbidden")
    assert [answer.status for answer in others] == [403, 403, 403, 403, 404]


@pytest.mark.parametrize("stream", [False, True])
def test_client_gone(
    serve_unix: Callable[..., Service],
    behind: Callable[[Script], Upstream],
    front: Callable[..., Nginx],
    stream: bool,
) -> None:
    """A client that leaves nginx while the model is silent frees the model within a second (figure 8)."""

    def silent(peer: Peer) -> None:
        if stream:
            peer.send(UNTIL_CLOSED + OPENAI.pieces[0])
        peer.wait_until_gone()

    far_end = behind(silent)
    service = serve_unix(**OPENAI.settings(far_end))
    nginx = front(f"unix:{service.path}")
    seconds = []
    for number in range(8):
        far_end.gone.clear()
        with nginx.asking(stream=stream) as (request_id, sock):
            eventually(lambda number=number: far_end.asked == number + 1)
            if stream:
                assert sock.recv(65_536)
        left = time.monotonic()
        assert far_end.gone.wait(5)
        seconds.append(time.monotonic() - left)
        [line] = eventually(lambda request_id=request_id: service.lines(request_id=request_id))
        assert line["status"] == "aborted"
    figure(8, f"through nginx, stream={stream}: 8 clients gone, the upstream left within {max(seconds):.2f} s")
    assert max(seconds) <= 1


@pytest.fixture
def mounted() -> Iterator[str]:
    """A folder that is in no container's own layer."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield folder


def test_doctor_likes_it(tmp_path: Path, mounted: str, free_port: int) -> None:
    """`flask llm doctor` finds nothing wrong with nginx.conf, gunicorn.conf.py and the defaults together."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LLM_BACKEND": "stub", "FLASK_SKIP_DOTENV": "1"}
    env |= {"LOG_FILE": f"{mounted}/log.jsonl", "BIND": f"127.0.0.1:{free_port}"}
    for name in ("llm_api", "wsgi.py", "gunicorn.conf.py", "deploy"):
        (tmp_path / name).symlink_to(PROJECT / name)

    def doctor(**more: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "llm", "doctor", "--nginx", "deploy/nginx.conf"]
        ran = subprocess.run(command, cwd=tmp_path, env=env | more, capture_output=True, text=True)
        assert not ran.stderr
        return ran.returncode, ran.stdout.splitlines()

    code, said = doctor()
    sick, words = doctor(REQUEST_TIMEOUT="130", MAX_BODY_BYTES="8388609")

    figure("doctor", "; ".join(said))
    assert code == 0
    assert said
    assert all(line.startswith("ok") for line in said)
    assert sick == 1
    assert sum("nginx" in line and not line.startswith("ok") for line in words) >= 2
