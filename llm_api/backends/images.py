"""Pictures at addresses, for backends whose servers don't fetch them or must not.

Strangers name these addresses, so what is fetched must not be what only this machine can reach. A host's name is looked
up once for each connection, and the connection goes to an address that was looked at (a name's may change at any time);
so does each redirect's. No proxy, cookie or password is used. docs/settings.md says what FETCH_IMAGES means.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, urljoin

import requests

from ..errors import RequestRefused
from ..rules import picture_address
from ..runtime.deadline import Deadline
from ..settings import Settings
from ..types import GenerationRequest, Image, ToolResult
from .http.connections import READ_BYTES, Adapter, Call, Received

REMEDY = "send a data: URL, or start the service with FETCH_IMAGES=true"
# For all pictures of a request together.
SECONDS = 20.0
MAX_REDIRECTS = 3
# Of one host.
MAX_ADDRESSES = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HEADERS = {"User-Agent": "llm-api", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
# What servers say that don't know what they have.
UNKNOWN = ("", "application/octet-stream", "binary/octet-stream")
# All that is routed of IPv6. IPv4 in other clothes is outside: mapped, compatible, NAT64.
UNICAST = ipaddress.ip_network("2000::/3")
# What Python takes for global (before 3.11.10, or still), and IANA's special-purpose registries don't, or what leads to
# any address of IPv4: Teredo and the like, 6to4 and its relays, documentation; and Azure's host, as its guests see it.
NAMED = ("2001::/23", "2002::/16", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
NOT_PUBLIC = tuple(map(ipaddress.ip_network, NAMED))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, and of one host."""
    ip = ipaddress.ip_address(address)
    if ip.is_multicast or not ip.is_global or (ip.version == 6 and ip not in UNICAST):
        return False
    return not any(ip in network for network in NOT_PUBLIC)


def fetched(request: GenerationRequest, settings: Settings, deadline: Deadline) -> GenerationRequest:
    """Return `request` with the files of its pictures in the place of their addresses.

    Raises RequestRefused where one can't be had or FETCH_IMAGES is false, and ClientGone.
    """
    fetch = _Fetch(settings, deadline)

    def filled(part: Any) -> Any:
        if isinstance(part, ToolResult):
            return replace(part, parts=tuple(map(filled, part.parts)))
        return fetch(part) if isinstance(part, Image) and part.url else part

    messages = (replace(m, parts=tuple(map(filled, m.parts))) for m in request.messages)
    return replace(request, messages=tuple(messages))


class _Fetch:
    """Fetches the pictures of one request, in SECONDS, and no more than a body could have brought."""

    def __init__(self, settings: Settings, deadline: Deadline) -> None:
        self._settings, self._deadline = settings, deadline
        # its own: what a stranger's server lets wait is no fault of the backend's
        self._clock = Deadline(min(SECONDS, deadline.remaining()))
        self._room = settings.max_body_bytes

    def __call__(self, image: Image) -> Image:
        """Return `image` with its file. Raises RequestRefused, ClientGone."""
        if not self._settings.fetch_images:
            raise _refused(f"is at an address, which this backend does not fetch: {REMEDY}", "unsupported_image")
        file = self._file(image.url or "")
        media_type = Image.type_of(file)
        if not media_type:
            raise _refused("is no JPEG, PNG, GIF or WebP", "invalid_image_format")
        self._room -= len(file)
        return Image(media_type, base64.b64encode(file).decode(), detail=image.detail)

    def _file(self, url: str) -> bytes:
        address = _address("", url)
        for _ in range(MAX_REDIRECTS + 1):
            with self._sent(address) as response:
                if response.status_code not in REDIRECTS:
                    return self._read(response)
                address = _address(address.geturl(), response.headers.get("location", ""))
        raise _refused(f"is redirected more than {MAX_REDIRECTS} times")

    @contextmanager
    def _sent(self, url: SplitResult) -> Iterator[Received]:
        """Raises RequestRefused where the answer does not come, or breaks."""
        base = f"{url.scheme}://{url.netloc}"
        seconds = max(min(self._settings.connect_timeout, self._clock.remaining()), 0.001)
        call = Call("GET", base, f"{url.path or '/'}?{url.query}".removesuffix("?"), HEADERS, b"", seconds)
        try:
            with self._deadline.stopping(call.stop), self._clock.stopping(call.stop), _Pinned(base).send(call) as sent:
                yield sent
        except (requests.RequestException, http.client.HTTPException, OSError) as error:
            self._check()
            is_tls = isinstance(error, requests.exceptions.SSLError)
            raise _refused(f"can't be fetched: {'no valid TLS' if is_tls else 'its connection fails'}") from None

    def _read(self, response: Received) -> bytes:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code != 200:
            raise _refused(f"can't be fetched: its server answered {response.status_code}")
        is_plain = response.headers.get("content-encoding", "identity") == "identity"
        if not is_plain or not (kind in UNKNOWN or kind.startswith("image/")):
            raise _refused("is no picture, as its server says", "invalid_image_format")
        most = min(self._settings.max_image_bytes, self._room)
        file = bytearray()
        while piece := response.read1(READ_BYTES):
            file += piece
            if len(file) > most:
                raise _refused("is too large (MAX_IMAGE_BYTES, MAX_BODY_BYTES)", "image_too_large")
        self._check()  # a body without a length ends where the clock has stopped it
        return bytes(file)

    def _check(self) -> None:
        if not self._clock.remaining():
            raise _refused("did not come in time")
        self._deadline.check()


class _Pinned(Adapter):
    """Connects to a public address, and only to one that it has looked at."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url, None, 1)

    def _new(self, seconds: float) -> http.client.HTTPConnection:
        connection = super()._new(seconds)
        connection._create_connection = _connect  # type: ignore[attr-defined]  # TLS still asks for the host's name
        return connection


def _connect(server: tuple[str, int], seconds: float, *_: object) -> socket.socket:
    """Connect as socket.create_connection does. Raises RequestRefused, OSError."""
    # in no other words for names that are not known: which there are inside is no stranger's business
    private = _refused("can't be fetched: its host has no public address")
    try:
        found = [str(place[0]) for *_, place in socket.getaddrinfo(*server, type=socket.SOCK_STREAM)]
    except socket.gaierror:
        raise private from None
    if not all(map(is_public, found)):
        raise private
    for address in found[:MAX_ADDRESSES]:
        with suppress(OSError):
            return socket.create_connection((address, server[1]), seconds)
    raise ConnectionError


def _address(base: str, said: str) -> SplitResult:
    try:
        return picture_address(urljoin(base, said))
    except ValueError:
        raise _refused("is not at an http:// or https:// address") from None


def _refused(why: str, code: str = "invalid_image_url") -> RequestRefused:
    return RequestRefused(f"the picture {why}", code=code, param="prompt")
