"""HTTP_PROXY_URL: what goes through it and what past it, that its password stays here, that it can't hold a request."""

import base64
import gc
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of
from providers import CLAUDE, HUGGING_FACE, OLLAMA, OPENAI, PROVIDERS, Provider, Socket, http

PASSWORD = "canary-password"
ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
CONNECT = re.compile(rb"CONNECT far\.example:443 HTTP/1\.[01]\r\n")


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_open() -> Iterator[None]:
    """A connection that was not closed is a warning, which fails the last test, when it is collected."""
    yield
    gc.collect()


def answer_of(provider: Provider) -> bytes:
    return http(json.dumps(provider.answer("Hello")).encode())


def through(proxy: str, provider: Provider, address: str, **more: Any) -> dict[str, Any]:
    """Return the settings for a far end at `address` behind a proxy with a password."""
    url = proxy.replace("http://", f"http://user:{PASSWORD}@")
    return provider.at(address) | {"http_proxy_url": url} | more


@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
def test_other_machines_are_reached_through_it(make_client: Serve, provider: Provider) -> None:
    """The proxy gets the request with the whole address and its own password, and its answer is the backend's."""
    with Socket(answer_of(provider)) as proxy:
        client = make_client(**through(proxy.address, provider, "http://far.example:8080/base"))
        reply = ask(client)
    assert reply.json["response"] == "Hello"
    (request,) = proxy.requests
    head = request.partition(b"\r\n\r\n")[0].decode()
    assert head.startswith(f"POST http://far.example:8080/base{provider.path} HTTP/1.1\r\n")
    basic = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    assert f"Proxy-Authorization: Basic {basic}" in head
    assert "Host: far.example:8080" in head


@pytest.mark.parametrize("provider", [OPENAI, CLAUDE, HUGGING_FACE], ids=str)
def test_tls_goes_through_a_tunnel(make_client: Serve, provider: Provider) -> None:
    """Of an https backend the proxy learns the host: no key, no prompt."""
    with Socket(http(b"", "403 Forbidden")) as proxy:
        reply = ask(make_client(**through(proxy.address, provider, "https://far.example/base")), prompt="canary-prompt")
    assert (reply.status_code, error_of(reply)["code"]) == (503, "unreachable")
    assert proxy.requests
    for request in proxy.requests:
        assert CONNECT.match(request)
        assert b"canary-prompt" not in request
        assert (provider.key or "").encode() not in request


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
def test_this_machine_is_reached_past_it(make_client: Serve, provider: Provider, host: str) -> None:
    """What listens on the loopback is not the proxy's to reach."""
    with Socket(b"") as proxy, Socket(answer_of(provider)) as far_end:
        address = far_end.address.replace("127.0.0.1", host)
        reply = ask(make_client(**through(proxy.address, provider, address)))
    assert reply.json["response"] == "Hello"
    assert (len(proxy.requests), len(far_end.requests)) == (0, 1)
    assert far_end.requests[0].startswith(f"POST {provider.path} ".encode())
    assert b"Proxy-" not in far_end.requests[0]


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, {}),
        ({"NO_PROXY": "*", "no_proxy": "far.example"}, {"http_proxy_url": "ours"}),
    ],
    ids=["no proxy of ours", "a proxy of ours"],
)
def test_the_environment_is_not_read(
    monkeypatch: pytest.MonkeyPatch, make_client: Serve, environ: dict[str, str], settings: dict[str, str]
) -> None:
    """Neither the proxies nor the exceptions that stand there count: ours does, or none."""
    with Socket(b"") as theirs, Socket(answer_of(OLLAMA)) as ours:
        for name in ENVIRONMENT:
            monkeypatch.setenv(name, theirs.address)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        if settings:
            client = make_client(**OLLAMA.at("http://far.example"), http_proxy_url=ours.address)
        else:
            client = make_client(**OLLAMA.at(ours.address))
        assert ask(client).json["response"] == "Hello"
    assert (len(theirs.requests), len(ours.requests)) == (0, 1)


@pytest.mark.parametrize("address", ["http://far.example", "https://far.example"])
@pytest.mark.parametrize("reply", [http(b'{"error": "who are you?"}', "407 Proxy Authentication Required"), b"", None])
def test_its_password_stays_here(
    make_client: Serve, log_path: Path, caplog: pytest.LogCaptureFixture, address: str, reply: bytes | None
) -> None:
    """Refused, broken or away: neither answer nor log nor error output has it, in clear or as it is sent."""
    with Socket(reply or b"") as proxy:
        at = proxy.address if reply is not None else "http://127.0.0.1:1"
        client = make_client(**through(at, OPENAI, address))
        answers = [ask(client), ask(client, stream=True), client.get("/config"), client.get("/health")]
    shown = "".join(f"{answer.text}{answer.headers}" for answer in answers) + log_path.read_text() + caplog.text
    assert [answer.status_code for answer in answers][2:] == [200, 503]
    assert set(statuses(log_path)) == {"error"}
    assert answers[2].json["http_proxy_url"] == at
    for secret in (PASSWORD, base64.b64encode(f"user:{PASSWORD}".encode()).decode()):
        assert secret not in shown


def statuses(log_path: Path) -> list[str]:
    return re.findall(r'"status": ?"(\w+)"', log_path.read_text())


class Dripping:
    """A proxy that sends one byte of an endless header at a time, and notes whether somebody hung up on it."""

    def __init__(self) -> None:
        self.hung_up = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Dripping":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(0.05)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(200):  # ten seconds
                try:
                    connection.sendall(b"x")
                    while connection.recv(65_536):
                        pass
                    self.hung_up.set()
                    return
                except TimeoutError:
                    continue
                except OSError:
                    self.hung_up.set()
                    return


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A proxy that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("address", ["http://far.example", "https://far.example"])
def test_a_silent_proxy_ends_at_the_deadline(
    make_client: Serve, log_lines: Log, silent: socket.socket, address: str
) -> None:
    """Whether it is to pass a request on or to open a tunnel: a proxy that hangs is a 504 after REQUEST_TIMEOUT."""
    proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
    reply = ask(make_client(**through(proxy, OPENAI, address, request_timeout=0.3)))
    assert (reply.status_code, error_of(reply)["code"]) == (504, "timeout")
    assert log_lines()[0]["http_status"] == 504


@pytest.mark.parametrize("address", ["http://far.example", "https://far.example"])
def test_a_dripping_proxy_ends_at_the_deadline(make_client: Serve, address: str) -> None:
    """Each byte comes in time, the whole never does: the connection is shut at the deadline."""
    with Dripping() as proxy:
        reply = ask(make_client(**through(proxy.address, OPENAI, address, request_timeout=0.3)))
    assert proxy.hung_up.is_set()
    assert (reply.status_code, error_of(reply)["code"]) == (504, "timeout")
