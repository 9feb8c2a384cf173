"""The session policy and the deadline on sockets, for all backends behind HTTP.

The policy, and what was measured without each rule: no environment (`.netrc` overwrote our key, proxy variables got
keys and prompts), no redirects (they carry `x-api-key` and the prompt along), no retries below the one loop of the
generator (a POST was executed four times), bodies bounded and never decompressed (a bomb of 291 kB took 612 MB),
and every socket is shut when its request is over (a dripped body took 11.6 s under a timeout of 1 s).
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import ProtocolError

from ... import strict_json
from ...errors import BackendError, InvalidAnswer, LLMAPIError, NotConfigured, ServerError, Unreachable
from ...runtime.deadline import Deadline
from ...runtime.per_process import PerProcess
from ...settings import Settings
from ...types import Chunk, GenerationRequest
from ..base import Backend
from .connections import Adapter, Answer, Call, authority
from .replies import Reply, error_for, in_shape, json_object, split_lines

MAX_ANSWER_BYTES = 16 * 1024 * 1024
READ_BYTES = 65_536
HEADERS = {"User-Agent": "llm-api", "Accept-Encoding": "identity"}

T = TypeVar("T")


class HttpBackend(Backend):
    """Posts `payload()` to `path` and translates the answer, whole or as a stream."""

    path: str

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._adapter = PerProcess(self._make_adapter)

    @property
    @abstractmethod
    def base_url(self) -> str:
        """The address that paths are appended to."""

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """Return the headers of every request. Raises NotConfigured where the key is missing."""

    @abstractmethod
    def payload(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the request in the provider's words, with nothing that the caller did not say."""

    @abstractmethod
    def whole(self, body: dict[str, Any]) -> Chunk:
        """Translate a whole answer; may raise KeyError and its like on a wrong shape."""

    @abstractmethod
    def pieces(self, lines: Iterator[bytes]) -> Iterator[Chunk]:
        """Translate a stream; may raise KeyError and its like on a wrong shape."""

    def key(self, key: str | None, variable: str, official: bool) -> str | None:
        """Return `key`. Raises NotConfigured without one, unless it is a server of one's own that may need none."""
        if key or not official:
            return key
        raise NotConfigured(
            f"{self.name} needs a key: put {variable}=... into .env, or export {variable} where the service is started"
        )

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        """Translate an error reply to `payload`; a provider with more than a status to go by says so here."""
        return error_for(self.name, reply)

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        with self._exchange("POST", self.path, deadline, request) as response:
            parts = _read(response, deadline)
            if not request.stream:
                yield in_shape(self.whole, json_object(b"".join(parts)))
                return
            pieces = self.pieces(split_lines(parts))
            while chunk := in_shape(next, pieces, None):
                yield chunk

    def get(self, path: str, deadline: Deadline, read: Callable[[dict[str, Any]], T]) -> T:
        """Return what `read` makes of the JSON object at `path`. Raises as `stream` does."""
        return in_shape(read, json_object(self.fetch(path, deadline)))

    def fetch(self, path: str, deadline: Deadline) -> bytes:
        """Return what is at `path`. Raises as `stream` does."""
        with self._exchange("GET", path, deadline) as response:
            return b"".join(_read(response, deadline))

    @contextmanager
    def _exchange(
        self, method: str, path: str, deadline: Deadline, request: GenerationRequest | None = None
    ) -> Iterator[Answer]:
        payload = self.payload(request) if request else None
        call = self._call(method, path, payload, deadline)
        reply = None
        with deadline.stopping(call.stop), self._send(call, deadline) as response:
            if response.status_code == 200:
                yield response
            else:
                reply = self._reply(response, deadline)
        if reply:
            raise self.error(reply, payload, deadline)

    def _call(self, method: str, path: str, payload: Mapping[str, Any] | None, deadline: Deadline) -> Call:
        headers = {**HEADERS, **self.headers(), **self._authority}
        body = b""
        if payload is not None:
            headers["Content-Type"] = "application/json"
            body = strict_json.dumps(payload).encode()
        seconds = max(min(self.settings.connect_timeout, deadline.remaining()), 0.001)
        return Call(method, self.base_url, path, headers, body, seconds)

    @cached_property
    def _authority(self) -> dict[str, str]:
        return authority(urlsplit(self.base_url))

    def _send(self, call: Call, deadline: Deadline) -> Answer:
        try:
            return self._adapter().send(call, stream=True)
        except requests.RequestException as error:
            deadline.check()
            raise _failure(self.name, error) from None

    def _reply(self, response: Answer, deadline: Deadline) -> Reply:
        body = b""
        with suppress(InvalidAnswer):  # the status says enough
            body = b"".join(_read(response, deadline))
        return Reply(response.status_code, response.headers, body, self.settings.redact)

    def _make_adapter(self) -> Adapter:
        proxy = None if _is_loopback(self.base_url) else self.settings.http_proxy_url
        return Adapter(self.base_url, proxy, self.settings.threads)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _failure(backend: str, error: Exception) -> BackendError:
    """Only a connection that was never made is surely a request that was never executed."""
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.ConnectTimeout):
        return Unreachable(f"{backend} can't be reached: no connection within CONNECT_TIMEOUT")
    if isinstance(error, requests.exceptions.SSLError):
        failed = Unreachable(f"{backend} can't be reached: its TLS certificate or handshake is not valid")
        failed.retryable = False
        return failed
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
        return NotConfigured(f"{backend}'s base URL or key can't be sent")
    if isinstance(error, requests.ConnectionError) and not isinstance(cause, ProtocolError):
        return Unreachable(f"{backend} can't be reached: {_reason(cause)}")
    why = cause.args[0] if isinstance(cause, ProtocolError) and cause.args else None
    if isinstance(why, http.client.HTTPException) and not isinstance(why, OSError):
        return InvalidAnswer(
            f"{backend} answered in what is not HTTP, or not plain enough ({type(why).__name__}: {why})"
        )
    dropped = ServerError(f"{backend} broke the connection before it answered")
    dropped.retryable = False
    return dropped


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    return "the connection was refused" if isinstance(error, ConnectionRefusedError) else "no connection"


def _read(response: Answer, deadline: Deadline) -> Iterator[bytes]:
    """Yield the body as it arrives, bounded in bytes and time."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise InvalidAnswer("the answer is compressed, which was not asked for")
    size = 0
    while data := _read_some(response, deadline):
        size += len(data)
        if size > MAX_ANSWER_BYTES:
            raise InvalidAnswer(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
        yield data


def _read_some(response: Answer, deadline: Deadline) -> bytes:
    try:
        data: bytes = response.raw.read1(READ_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError):
        deadline.check()
        raise InvalidAnswer("the connection broke in the middle of the answer") from None
    if not data:
        deadline.check()
    return data
