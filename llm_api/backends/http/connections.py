"""Connections to providers: an adapter of requests that talks to http.client itself.

What lies between (a session, urllib3's pool) took most of the CPU of a call, for redirects, cookies, retries and
decoding, none of which this service wants. What stays is all that guards: certificates are verified, nothing is taken
from the environment, and a socket can be shut by another thread from the moment it is there.
"""

from __future__ import annotations

import http.client
import re
import select
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError

from ...rules import basic_credentials
from ...runtime.deadline import look

MAX_HEADERS = 100
READ_BYTES = 65_536
MAX_LINE_BYTES = 65_536
# A host that dies without a word is noticed within 20 s, whether it owes an answer or has not confirmed what was sent;
# else a request waits for it until its deadline. Linux's names (tcp(7)); another system has some of them.
LIFE_SIGNS = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}


class Call(requests.PreparedRequest):
    """One request to `path` below `base_url`.

    It has `connect_seconds` to connect; `stop` ends it from another thread.
    """

    body: bytes

    def __init__(
        self, method: str, base_url: str, path: str, headers: dict[str, str], body: bytes, connect_seconds: float
    ) -> None:
        super().__init__()
        self.method, self.url, self.path, self.body = method, base_url + path, path, body
        self.headers = headers  # type: ignore[assignment]  # names as we write them, so no CaseInsensitiveDict
        self.connect_seconds = connect_seconds
        self.connection: http.client.HTTPConnection | None = None
        self.sock: socket.socket | None = None

    def head(self, target: str, more: Mapping[str, str]) -> bytes:
        """Return the request up to its body (RFC 9112, section 2.1)."""
        headers = {**more, **self.headers}
        if self.body:
            headers["Content-Length"] = str(len(self.body))
        values = "".join(headers.values())
        if not (values.isascii() and values.isprintable()):
            raise requests.exceptions.InvalidHeader("a value has what would end its line")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def stop(self) -> None:
        """Shut the socket that is waited for."""
        # until it is connected its own one is all there is; an answer that ends by closing takes that one away
        if sock := self.sock or (self.connection and self.connection.sock):
            with suppress(OSError):
                # not its own: a TLS socket's goes on in plain text for whoever is sending
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Response(http.client.HTTPResponse):
    """http.client's, but with `fields` for headers: how email parses them took a seventh of a request's time."""

    fields: dict[str, str]

    def begin(self) -> None:
        """Read up to the body (RFC 9112, sections 4 to 6). Raises HTTPException, OSError."""
        self.status = 100
        while self.status < 200:  # what comes before the answer says nothing that is of use here
            version, self.status, _ = self._read_status()  # type: ignore[attr-defined]  # older than typeshed
            self.fields = _read_fields(self.fp)
        codings, lengths = self._values("transfer-encoding") - {"identity"}, self._values("content-length")
        length = min(lengths, default="")
        if codings - {"chunked"} or len(lengths) > 1 or not re.fullmatch(r"[0-9]{0,18}", length):
            raise http.client.HTTPException("where this answer ends can't be told")
        self.chunked, self.chunk_left = bool(codings), None
        self.length = None if codings or not length else int(length)
        if self.status in (204, 304):
            self.chunked, self.length = False, 0
        is_bounded = self.chunked or self.length is not None
        self.will_close = not is_bounded or version != "HTTP/1.1" or "close" in self._values("connection")

    def _values(self, name: str) -> set[str]:
        return {value.strip() for value in self.fields.get(name, "").lower().split(",")} - {""}


def _read_fields(file: BinaryIO) -> dict[str, str]:
    """Return the headers by their names in small letters; of one that comes again, all values (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    name = ""
    for _ in range(MAX_HEADERS + 1):
        line = _read_line(file)
        if not line:
            return fields
        said, _, value = line.partition(":")
        if line[0] in " \t":  # what an old server has folded (RFC 9112, section 5.2)
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        else:
            name = said.strip().lower()
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    raise http.client.HTTPException("too many headers")


def _read_line(file: BinaryIO) -> str:
    line = file.readline(MAX_LINE_BYTES)
    if len(line) == MAX_LINE_BYTES:
        raise http.client.LineTooLong("header")
    if not line.endswith(b"\n"):
        raise http.client.RemoteDisconnected("in the headers")
    return line.decode("latin-1").rstrip("\r\n")


class UnixConnection(http.client.HTTPConnection):
    """One to the socket `path` of this machine."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect within the timeout. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Body:
    """Takes a body out of its frame (RFC 9112, sections 6.2 and 7.1): http.client's reads one chunk at a time."""

    def __init__(self, response: _Response) -> None:
        self._chunked = response.chunked
        self._left = 0 if self._chunked else response.length
        self._held = b""
        self._is_last = False
        self.is_over = not self._chunked and self._left == 0

    def of(self, data: bytes) -> bytes:
        """Return what of `data` is the body's; b"" is the connection's end. Raises HTTPException."""
        if not data:
            if self._left or (self._chunked and not self._is_last):
                raise http.client.IncompleteRead(b"", self._left or None)
            self.is_over = True
        if self._chunked:
            return b"".join(self._chunks(self._held + data))
        if self._left is None:
            return data
        part = data[: self._left]
        self._left -= len(part)
        self.is_over = not self._left
        return part

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        self._held, at = b"", 0
        while at < len(data) and not self.is_over:
            if self._left:  # with the two bytes that end a chunk
                part = data[at : at + self._left]
                at, self._left = at + len(part), self._left - len(part)
                yield part[: len(part) + min(0, self._left - 2)] if self._left < 2 else part
            elif (end := data.find(b"\n", at)) >= 0:
                self._line(data[at:end].strip())
                at = end + 1
            else:
                self._held, at = data[at:], len(data)
        if len(self._held) > MAX_LINE_BYTES:
            raise http.client.LineTooLong("chunk")

    def _line(self, line: bytes) -> None:
        """Read the line that begins a chunk, or one behind the last of them."""
        if self._is_last:
            self.is_over = not line
            return
        size = re.match(rb"[0-9A-Fa-f]{1,15}(?=\s*(?:;|$))", line)
        if not size:
            raise http.client.HTTPException("where a chunk ends can't be told")
        length = int(size[0], 16)
        self._left, self._is_last = (length + 2 if length else 0), not length


class Received:
    """What is used of requests' Response, and its `raw` too: the body as it arrives.

    `silence`: the seconds after which reading is a TimeoutError where nothing comes, once something has. Its connection
    is kept when it has been read to its end.
    """

    def __init__(self, adapter: Adapter, call: Call, response: _Response) -> None:
        self.status_code, self.raw = response.status, self
        self.silence: float | None = None
        self.headers: Mapping[str, str] = response.fields
        self._adapter, self._call, self._response = adapter, call, response
        self._body = _Body(response)

    def __enter__(self) -> Received:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read1(self, size: int, decode_content: bool = False) -> bytes:
        """Return what comes next of the body, b"" at its end. Raises OSError or HTTPException."""
        while not self._body.is_over:
            if data := self._body.of(self._come(size)):
                return data
        self._keep()
        return b""

    def _come(self, size: int) -> bytes:
        if self.silence is None:
            return self._response.fp.read1(size)  # its buffer has what came with the headers, once
        sock = self._call.sock
        assert sock, "it has not been read to its end"
        if sock.gettimeout() != self.silence:
            sock.settimeout(self.silence)
        return sock.recv(size)

    def _keep(self) -> None:
        if not self._response.will_close and (connection := self._call.connection):
            self._call.connection = self._call.sock = None
            if connection.sock.gettimeout():
                connection.sock.settimeout(None)
            self._adapter.keep(connection)

    def close(self) -> None:
        """Leave the rest unread: the provider is to stop."""
        self._response.close()
        if self._call.connection:
            self._call.connection.close()


class Adapter(HTTPAdapter):
    """Sends calls to the one server at `base_url`, by `proxy` where there is one; keeps `idle` connections.

    With `unix` it is reached at that socket of this machine.
    """

    def __init__(self, base_url: str, proxy: str | None, idle: int, unix: str | None = None) -> None:
        super().__init__(max_retries=0)
        self._unix = unix
        self._server = urlsplit(base_url)
        self._proxy = urlsplit(proxy) if proxy else None
        self._free: deque[http.client.HTTPConnection] = deque(maxlen=idle)
        weakref.finalize(self, _close, self._free)
        self._tls = _tls() if self._server.scheme == "https" else None
        self._headers = {"Host": self._server.netloc.rpartition("@")[2]}
        self._root = self._server.path
        if self._proxy and not self._tls:  # it sees the request, and needs all of the address (RFC 9112, section 3.2.2)
            self._root = f"http://{self._headers['Host']}{self._root}"
            self._headers |= _proxy_headers(self._proxy)

    def send(self, request: Call, **_: Any) -> Received:  # type: ignore[override]  # only our own calls
        """Return the beginning of the answer. Raises requests' exceptions.

        A ConnectionError with a ProtocolError in it is one that came after the request was sent.
        """
        head = request.head(self._root + request.path, self._headers)
        connection = request.connection = self._connected(request)
        request.sock = connection.sock
        response = _Response(connection.sock, method=request.method)
        try:
            connection.sock.sendall(head + request.body)  # http.client would send the two apart
            response.begin()
        except (OSError, http.client.HTTPException) as error:
            response.close()
            connection.close()
            raise requests.ConnectionError(ProtocolError(error)) from None
        return Received(self, request, response)

    def _connected(self, call: Call) -> http.client.HTTPConnection:
        if idle := self._alive():
            return idle
        connection = call.connection = self._new(call.connect_seconds)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            connection.close()
            # in its frames is the answer of a proxy that refuses a tunnel, which older Pythons (3.11.2) leave open
            raise _failure(error.with_traceback(None)) from None
        # that reads end in time is the watchdog's work; a timeout would cost each of them one more system call
        connection.sock.settimeout(None)
        _watch(connection.sock)
        return connection

    def _alive(self) -> http.client.HTTPConnection | None:
        with suppress(IndexError):
            # an idle one has nothing to say but that it is closed
            while look([(connection := self._free.pop()).sock.fileno()], select.POLLIN):
                connection.close()
            return connection
        return None

    def keep(self, connection: http.client.HTTPConnection) -> None:
        """Take a connection back whose answer has been read."""
        self._free.append(connection)

    def _new(self, seconds: float) -> http.client.HTTPConnection:
        if self._unix:
            return UnixConnection(self._unix, seconds)
        first = self._proxy or self._server
        host = first.hostname or ""
        if not self._tls:
            return http.client.HTTPConnection(host, first.port or 80, timeout=seconds)
        connection = http.client.HTTPSConnection(host, first.port, timeout=seconds, context=self._tls)
        if self._proxy:
            connection.port = self._proxy.port or 80
            connection.set_tunnel(self._server.hostname or "", self._server.port or 443, _proxy_headers(self._proxy))
        return connection


@cache
def _tls() -> ssl.SSLContext:
    """One for all providers: reading the authorities takes 15 ms, and memory for each."""
    return ssl.create_default_context(cafile=certifi.where())


def _failure(error: Exception) -> requests.RequestException:
    if isinstance(error, ssl.SSLError):
        return requests.exceptions.SSLError(error)
    if isinstance(error, TimeoutError):
        return requests.ConnectTimeout(error)
    return (requests.exceptions.InvalidURL if isinstance(error, UnicodeError) else requests.ConnectionError)(error)


def _close(connections: deque[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def authority(url: SplitResult) -> dict[str, str]:
    """Return the header for user:password of an address, if it has them."""
    credentials = basic_credentials(url)
    return {"Authorization": f"Basic {credentials}"} if credentials else {}


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    return {f"Proxy-{name}": value for name, value in authority(proxy).items()}


def _watch(sock: socket.socket) -> None:
    """Let the system notice that the other host is dead."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in LIFE_SIGNS.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
