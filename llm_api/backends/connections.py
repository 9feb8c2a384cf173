"""Connections to providers: an adapter of requests that talks to http.client itself.

What lies between (a session, urllib3's pool) took half of the CPU of a call, for redirects, cookies, retries and
decoding, none of which this service wants. What stays is all that guards: certificates are verified, nothing is taken
from the environment, and a socket can be shut by another thread from the moment it is there.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import certifi
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import Timeout
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from ..deadline import look
from ..rules import basic_credentials


class Call(requests.PreparedRequest):
    """One request, which has `connect_seconds` to connect, and which `stop` ends from another thread."""

    def __init__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, connect_seconds: float
    ) -> None:
        super().__init__()
        self.connect_seconds = connect_seconds
        self.method, self.url, self.body = method, url, body
        self.headers = CaseInsensitiveDict(headers)
        self.connection: http.client.HTTPConnection | None = None
        self.sock: socket.socket | None = None

    def stop(self) -> None:
        """Shut the socket that is waited for."""
        # until it is connected its own one is all there is; an answer that ends by closing takes that one away
        if sock := self.sock or (self.connection and self.connection.sock):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Answer:
    """What requests calls `raw`: the body as it arrives. Its connection is kept when it has been read to its end."""

    def __init__(self, adapter: Adapter, call: Call, response: http.client.HTTPResponse) -> None:
        self.status, self.reason, self.headers = response.status, response.reason, response.headers
        self._adapter, self._call, self._response = adapter, call, response

    def read1(self, size: int, decode_content: bool = False) -> bytes:
        """Return what is there of the body, up to `size` bytes, b"" at its end. Raises OSError or HTTPException."""
        data = self._response.read1(size)
        if not data:
            if self._response.length:  # http.client takes a body that is cut short for its end
                raise http.client.IncompleteRead(b"", self._response.length)
            self._keep()
        return data

    def _keep(self) -> None:
        connection, self._call.connection, self._call.sock = self._call.connection, None, None
        if connection and not self._response.will_close:
            self._adapter.keep(connection)

    def close(self) -> None:
        """Leave the rest unread: the provider is to stop."""
        self._response.close()
        if self._call.connection:
            self._call.connection.close()


class Adapter(HTTPAdapter):
    """Sends calls to the one server at `base_url`, by `proxy` where there is one; keeps `idle` connections."""

    def __init__(self, base_url: str, proxy: str | None, idle: int) -> None:
        super().__init__(max_retries=0)
        self._server = urlsplit(base_url)
        self._proxy = urlsplit(proxy) if proxy else None
        self._free: deque[http.client.HTTPConnection] = deque(maxlen=idle)
        weakref.finalize(self, _close, self._free)
        self._tls = ssl.create_default_context(cafile=certifi.where()) if self._server.scheme == "https" else None

    def get_connection_with_tls_context(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what requests takes for a pool of urllib3's, with a connection. Raises requests' exceptions."""
        # not later: what `urlopen` raises, requests would wrap
        self._connect(request)
        return _Line(self, request)

    def cert_verify(self, *args: Any) -> None:
        """Leave it to the connection's context."""

    def _connect(self, call: Call) -> None:
        if idle := self._alive():
            call.connection = idle
            return
        call.connection = self._new(call.connect_seconds)
        try:
            call.connection.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            call.connection.close()
            raise _failure(error) from None

    def _alive(self) -> http.client.HTTPConnection | None:
        with suppress(IndexError):
            while _has_news((connection := self._free.pop()).sock):
                connection.close()
            return connection
        return None

    def keep(self, connection: http.client.HTTPConnection) -> None:
        """Take a connection back whose answer has been read."""
        self._free.append(connection)

    def target(self, call: Call, path: str) -> tuple[str, dict[str, str]]:
        """Return what the request's line names, and headers for the proxy: all there is where it sees the request."""
        if not self._proxy or self._tls:
            return path, {}
        return f"http://{self._server.netloc.rpartition('@')[2]}{path}", _proxy_headers(self._proxy)

    def _new(self, seconds: float) -> http.client.HTTPConnection:
        first = self._proxy or self._server
        host = first.hostname or ""
        if not self._tls:
            return http.client.HTTPConnection(host, first.port or 80, timeout=seconds)
        connection = http.client.HTTPSConnection(host, first.port, timeout=seconds, context=self._tls)
        if self._proxy:
            connection.port = self._proxy.port or 80
            connection.set_tunnel(self._server.hostname or "", self._server.port or 443, _proxy_headers(self._proxy))
        return connection


class _Line:
    """The one request of a call, in the shape of urllib3's pool."""

    def __init__(self, adapter: Adapter, call: Call) -> None:
        self._adapter, self._call = adapter, call

    def urlopen(
        self, *, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: Timeout, **_: Any
    ) -> Answer:
        connection = self._call.connection
        assert connection, "the adapter has made it"
        target, more = self._adapter.target(self._call, url)
        try:
            self._call.sock = connection.sock
            connection.sock.settimeout(timeout.read_timeout)
            connection.request(method, target, body, {**headers, **more})
            return Answer(self._adapter, self._call, connection.getresponse())
        except TimeoutError as error:
            connection.close()
            # requests makes a ReadTimeout of it; the pool that it names for a reader is none of urllib3's here
            raise ReadTimeoutError(None, url, "nothing came") from error  # type: ignore[arg-type]
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ProtocolError(error) from None


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


def _has_news(sock: socket.socket) -> bool:
    """An idle connection has nothing to say but that it is closed."""
    return bool(look([sock.fileno()], select.POLLIN))
