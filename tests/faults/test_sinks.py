"""Figure 13: what would lead a key or a prompt elsewhere: redirects, .netrc, proxy variables, a CA of someone's own."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .loads import Service, figure, not_tested
from .upstreams import TEXT, UNTIL_CLOSED, WIRES, Peer, Script, Upstream, Wire

KEY = "canary-key-0123456789"
PROMPT = "canary-prompt"
KEYS = {"OPENAI_API_KEY": KEY, "CLAUDE_API_KEY": KEY, "HF_API_KEY": KEY}
# what a client does that minds its environment, as `requests` by itself does
NAIVE = f"""
import sys, requests
requests.post(sys.argv[1], json={{"prompt": "{PROMPT}"}}, headers={{"x-api-key": "{KEY}"}}, timeout=5)
"""


class Sink:
    """Takes connections, and notes each byte that comes."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.got = b""
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._tls = tls

    def take(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(2)
            with suppress(OSError), self._tls.wrap_socket(sock, server_side=True) if self._tls else sock as peer:
                self._read(peer)

    def _read(self, peer: socket.socket) -> None:
        while PROMPT.encode() not in self.got and (data := peer.recv(65_536)):
            self.got += data
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def sink(tls: ssl.SSLContext | None = None) -> Iterator[Sink]:
    """Run a sink on both kinds of address that `localhost` may be."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taking = Sink(listener, tls)
        thread = threading.Thread(target=taking.take, daemon=True)
        thread.start()
        try:
            yield taking
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def naively(url: str, **environment: str) -> None:
    """Ask as one who minds the environment: what then reaches the sink shows that it can."""
    subprocess.run([sys.executable, "-c", NAIVE, url], env=environment, capture_output=True, timeout=30)


def answering(wire: Wire, heads: list[bytes]) -> Script:
    def answer(peer: Peer) -> None:
        heads.append(peer.head)
        peer.send(UNTIL_CLOSED + (wire.stream if peer.wish["stream"] else wire.whole))

    return answer


def ask_in_all_ways(service: Service) -> list[int]:
    """Ask whole, as a stream, in OpenAI's dialect, for health and for the models; return the statuses of answers."""
    answers = [ask(PROMPT, stream=stream) for ask in (service.generate, service.chat) for stream in (False, True)]
    service.get("/health")
    service.get("/v1/models")
    return [answer.status for answer in answers]


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_redirects(serve: Callable[..., Service], behind: Callable[[Script], Upstream], wire: Wire) -> None:
    """Whatever a redirect's status and wherever it leads, nothing goes there, not even a connection."""
    with sink() as elsewhere:
        places = [f"http://{host}:{elsewhere.port}/v1" for host in ("127.0.0.1", "localhost", "user:word@127.0.0.1")]
        turns = [(status, place) for status in (301, 302, 303, 307, 308) for place in places]

        def redirect(peer: Peer) -> None:
            status, place = turns[far_end.asked % len(turns)]
            head = f"HTTP/1.1 {status} Go\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            peer.send(head.encode())

        far_end = behind(redirect)
        far_end.probe = redirect
        naively(far_end.address)
        leaked = len(elsewhere.got)
        elsewhere.got = b""
        service = serve(WEB_CONCURRENCY=1, LLM_FALLBACK="stub", **KEYS, **wire.settings(far_end))
        before = far_end.asked
        statuses = [status for _ in turns[::3] for status in ask_in_all_ways(service)]
        figure(
            13,
            f"{wire}: {len(statuses)} requests before redirects: {len(elsewhere.got)} bytes elsewhere, "
            f"from a naive client {leaked}",
        )
        assert far_end.asked > before
        assert {line["fallback_reason"] for line in service.lines()} <= {"invalid_answer", "circuit_open"}
        assert elsewhere.got == b""
        assert leaked


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_environment(
    serve: Callable[..., Service], behind: Callable[[Script], Upstream], tmp_path: Path, wire: Wire
) -> None:
    """Proxy variables and a .netrc are not minded: no byte reaches the proxy, and the key is the configured one."""
    netrc = "machine 127.0.0.1 login netrc password netrc\ndefault login netrc password netrc\n"
    (tmp_path / ".netrc").write_text(netrc)
    (tmp_path / ".netrc").chmod(0o600)
    heads: list[bytes] = []
    far_end = behind(answering(wire, heads))
    with sink() as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        names = [f"{scheme}_PROXY" for scheme in ("HTTP", "HTTPS", "ALL")]
        environment = {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")}
        environment |= dict.fromkeys([*names, *map(str.lower, names)], address)
        naively(far_end.address, **environment)
        leaked = len(proxy.got)
        proxy.got = b""
        service = serve(WEB_CONCURRENCY=1, **KEYS, **environment, **wire.settings(far_end))
        statuses = ask_in_all_ways(service)
        figure(
            13, f"{wire}, proxy variables and .netrc: {len(proxy.got)} bytes elsewhere, from a naive client {leaked}"
        )
        assert statuses == [200] * 4
        assert proxy.got == b""
        assert leaked
    assert len(heads) == 4
    for head in heads:
        keys = [line for line in head.split(b"\r\n") if line.lower().startswith((b"authorization:", b"x-api-key:"))]
        said = {"claude": [f"x-api-key: {KEY}"], "ollama": []}.get(wire.name, [f"Authorization: Bearer {KEY}"])
        assert [key.decode() for key in keys] == said


def test_ca_bundle(serve: Callable[..., Service], tmp_path: Path) -> None:
    """A certificate that only REQUESTS_CA_BUNDLE and its like vouch for is refused before anything is said."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*make, *name, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        not_tested("there is no openssl to make a certificate with")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with sink(tls) as impostor:
        address = f"https://127.0.0.1:{impostor.port}"
        environment = dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), str(certificate))
        naively(address, **environment)
        leaked = len(impostor.got)
        impostor.got = b""
        chain = {"LLM_BACKEND": WIRES[0].name, "LLM_FALLBACK": ",".join(wire.name for wire in WIRES[1:])}
        settings = {wire.address: address for wire in WIRES} | chain | {"HF_MODE": "cloud"}
        service = serve(WEB_CONCURRENCY=1, **KEYS, **environment, **settings)
        for stream in (False, True):
            assert service.generate(PROMPT, stream=stream).code == "unreachable"
        assert service.get("/health").status == 503
        outcomes = [(tried["backend"], tried["outcome"]) for line in service.lines() for tried in line["attempts"]]
        figure(13, f"an impostor's CA, 4 wires: {len(impostor.got)} bytes elsewhere, from a naive client {leaked}")
        assert outcomes == [(wire.name, "unreachable") for wire in WIRES] * 2
        assert impostor.got == b""
        assert leaked


def test_a_proxy_of_ones_own(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """HTTP_PROXY_URL is minded, but not for backends on this machine: the proof that a proxy could be reached."""
    wire = WIRES[0]
    far_end = behind(answering(wire, []))
    with sink() as proxy:
        own = {"HTTP_PROXY_URL": f"http://127.0.0.1:{proxy.port}", "WEB_CONCURRENCY": 1}
        here = serve(**own, **KEYS, **wire.settings(far_end)).generate(PROMPT)
        assert (here.text, proxy.got) == (TEXT, b"")
        there = serve(**own, **KEYS, **wire.settings(far_end) | {wire.address: "http://far.invalid"}).generate(PROMPT)
        assert there.status >= 400
        assert json.dumps(PROMPT).encode() in proxy.got
