"""The session policy and the deadline on sockets, for all backends behind HTTP.

The policy, and what was measured without each rule: no environment (`.netrc` overwrote our key, proxy variables got
keys and prompts), no redirects (they carry `x-api-key` and the prompt along), no retries below the one loop in
exchange/attempts.py (a POST was executed four times), bodies bounded and never decompressed (a bomb of 291 kB took
612 MB), and every socket is shut when its request is over (a dripped body took 11.6 s under a timeout of 1 s).
"""

from __future__ import annotations

import http.client
import math
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import ProtocolError

from ... import strict_json
from ...errors import (
    BackendError,
    InvalidAnswer,
    LLMAPIError,
    NotConfigured,
    ParameterDropped,
    RateLimited,
    ServerError,
    Unreachable,
)
from ...rules import is_loopback
from ...runtime.deadline import Deadline
from ...runtime.per_process import PerProcess
from ...settings import Settings
from ...types import Chunk, GenerationRequest
from ..base import TRACE_HEADERS, Backend, cut_at_stop
from .connections import READ_BYTES, Adapter, Call, Received, authority
from .replies import REFUSED, Reply, error_for, error_in, error_of, output_limit, said_status
from .streams import event_data, in_shape, json_object, split_lines

MAX_ANSWER_BYTES = 16 * 1024 * 1024
# What a provider says of a model is believed for so long, of so many models.
SHOWN_SECONDS, MOST_SHOWN = 60, 100
# How long a request waits for what it can do without, and how long none waits again where that was in vain.
ASKED_SECONDS, UNKNOWN_SECONDS = 2.0, 10.0
MOST_TOKENS = ("max_tokens", "max_completion_tokens")
LEFT_OUT = ("temperature", "top_p", "seed")
HEADERS = {"User-Agent": "llm-api", "Accept-Encoding": "identity"}

T = TypeVar("T")


class HttpBackend(Backend):
    """Posts `payload()` to `path` and translates the answer, whole or as a stream."""

    path: str
    # Whether its server may be sent a picture's address, which it then fetches.
    fetches_images: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._adapter = PerProcess(self._make_adapter)
        # What every request has beside `payload` and `headers`.
        self.extra_body: Mapping[str, Any] = {}
        self.extra_headers: Mapping[str, str] = {}

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
    def whole(self, body: dict[str, Any]) -> Chunk | list[Chunk]:
        """Translate a whole answer, in several chunks where one can't keep its order.

        May raise KeyError and its like on a wrong shape.
        """

    @abstractmethod
    def pieces(self, lines: Iterator[bytes | None]) -> Iterator[Chunk]:
        """Translate a stream; may raise KeyError and its like on a wrong shape.

        Where a line is None the server is silent, and so is an empty chunk.
        """

    def error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        """Translate an error reply to `payload`; a provider with more than a status to go by says so here."""
        return error_for(self.name, reply)

    def broken(self, event: Mapping[str, Any]) -> LLMAPIError:
        """Return the error for an event that ends a stream.

        Only where the rate is limited it is asked again: else the provider has begun, and may have billed.
        """
        error = self.error(self._within(error_in(event)), None, Deadline(0))
        if isinstance(error, ServerError):
            error.message = f"{self.name} broke off with an error"  # the status came before it
        if isinstance(error, BackendError) and not isinstance(error, RateLimited):
            error.retryable = False
        return error

    def _within(self, error: Mapping[str, Any]) -> Reply:
        """Return the reply for an error inside an answer with status 200: the status is the one that the error says."""
        return Reply(said_status(error), {}, error, self.settings.redact)

    def unsent_stops(self, request: GenerationRequest, payload: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the stop texts that the provider was not told; the answer is cut at them here."""
        return ()

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if not self.fetches_images and "images" in request.needs:
            from ..images import fetched  # not above: it imports from here

            request = fetched(request, self.settings, deadline)
        payload = self.payload(request)
        chunks = self._chunks(payload, payload.get("stream", request.stream), deadline)
        return cut_at_stop(chunks, self.unsent_stops(request, payload))

    def _chunks(self, payload: Mapping[str, Any], streamed: bool, deadline: Deadline) -> Iterator[Chunk]:
        if not streamed:
            whole = self.post(self.path, payload, deadline, self.whole)
            yield from [whole] if isinstance(whole, Chunk) else whole
            return
        with self._sent(self.path, payload, deadline) as response:
            pieces = self.pieces(split_lines(_read(response, deadline), deadline))
            while chunk := in_shape(next, pieces, None):
                yield chunk

    def get(self, path: str, deadline: Deadline, read: Callable[[dict[str, Any]], T]) -> T:
        """Return what `read` makes of the JSON object at `path`. Raises as `stream` does."""
        return self.post(path, None, deadline, read)

    def post(
        self, path: str, payload: Mapping[str, Any] | None, deadline: Deadline, read: Callable[[dict[str, Any]], T]
    ) -> T:
        """Return what `read` makes of the JSON object that answers `payload`. Raises as `stream` does."""
        body = json_object(self.fetch(path, deadline, payload))
        if error := error_in(body):
            raise self._error(self._within(error), payload, deadline)
        return in_shape(read, body)

    def _error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        is_ours = payload is not None and reply.status in REFUSED and reply.param not in payload
        if is_ours and reply.param in self.extra_body:
            return NotConfigured(f"{self.name} refuses {reply.param}, which a setting adds", detail=reply.detail)
        return self.error(reply, payload, deadline)

    def fetch(self, path: str, deadline: Deadline, payload: Mapping[str, Any] | None = None) -> bytes:
        """Return what is at `path`, or answers `payload` there. Raises as `stream` does."""
        with self._sent(path, payload, deadline) as response:
            return b"".join(_read(response, deadline))

    @contextmanager
    def _sent(self, path: str, payload: Mapping[str, Any] | None, deadline: Deadline) -> Iterator[Received]:
        """Send a POST with `payload`, a GET where it is None."""
        call = self._call(path, payload, deadline)
        reply = None
        with deadline.stopping(call.stop), self._send(call, deadline) as response:
            if response.status_code == 200:
                yield response
            else:
                reply = self._reply(response, deadline)
        if reply:
            raise self._error(reply, payload, deadline)

    def _call(self, path: str, payload: Mapping[str, Any] | None, deadline: Deadline) -> Call:
        headers = {**HEADERS, **TRACE_HEADERS.get(), **self.headers(), **authority(urlsplit(self.base_url))}
        body = b""
        if payload is not None:
            headers["Content-Type"] = "application/json"
            # what the operator adds is for conversations
            body = strict_json.dumps(_merged(self.extra_body, payload) if path == self.path else payload).encode()
        ours = {name.lower() for name in headers}
        headers |= {name: value for name, value in self.extra_headers.items() if name.lower() not in ours}
        seconds = max(min(self.settings.connect_timeout, deadline.remaining()), 0.001)
        return Call("GET" if payload is None else "POST", self.base_url, path, headers, body, seconds)

    def _send(self, call: Call, deadline: Deadline) -> Received:
        try:
            return self._adapter().send(call, stream=True)
        except requests.RequestException as error:
            deadline.check()
            raise _failure(self.name, error) from None

    def _reply(self, response: Received, deadline: Deadline) -> Reply:
        error: dict[str, Any] = {}
        with suppress(InvalidAnswer):  # the status says enough
            error = error_of(b"".join(_read(response, deadline)), response.status_code)
        return Reply(response.status_code, response.headers, error, self.settings.redact)

    def _make_adapter(self) -> Adapter:
        host = urlsplit(self.base_url).hostname or ""
        proxy = None if host == "localhost" or is_loopback(host) else self.settings.http_proxy_url
        return Adapter(self.base_url, proxy, self.settings.threads)


class Vendor(HttpBackend):
    """A provider whose model, address and key are settings: `prefix` with `_model`, `_base_url` and `_api_key`.

    `address` is the second of these names where it is another one.
    """

    prefix: ClassVar[str] = ""
    address: ClassVar[str] = "base_url"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # What models have refused: a parameter, or more tokens in an answer.
        self._refused: dict[str, frozenset[str]] = {}
        self._most_tokens: dict[str, int] = {}
        self._shown: dict[str, tuple[float, Any]] = {}
        self.extra_body = getattr(settings, f"{self.prefix}_extra_body", None) or {}
        self.extra_headers = getattr(settings, f"{self.prefix}_extra_headers", None) or {}

    @property
    def model(self) -> str:
        model: str = getattr(self.settings, f"{self.prefix}_model")
        return model

    @property
    def embed_model(self) -> str | None:
        return getattr(self.settings, f"{self.prefix}_embed_model", None)

    @property
    def base_url(self) -> str:
        url: str = getattr(self.settings, f"{self.prefix}_{self.address}")
        return url

    def shown(self, model: str, ask: Callable[[], T]) -> T:
        """Return what `ask` gives of `model`, which is remembered. Raises as `ask` does."""
        until, known = self._shown.get(model, (-math.inf, None))
        if time.monotonic() > until:
            known = ask()
            self._believe(model, known, SHOWN_SECONDS)
        return cast(T, known)

    def shown_at(self, path: str, deadline: Deadline, read: Callable[[dict[str, Any]], T]) -> T:
        """Return what `read` makes of what is at `path`, remembered as by `shown`.

        Where that can't be had now it is what it was at last, or of {} where it never could: a slow list must not fail
        requests. What is not known to lack anything is asked, and refuses itself what it can't.
        """
        try:
            return self.shown(path, lambda: self.get(path, Deadline(min(ASKED_SECONDS, deadline.remaining())), read))
        except LLMAPIError:
            _, known = self._shown.get(path, (0, read({})))
            self._believe(path, known, UNKNOWN_SECONDS)
            return cast(T, known)

    def _believe(self, model: str, known: object, seconds: float) -> None:
        if len(self._shown) >= MOST_SHOWN:
            self._shown = {}
        self._shown[model] = (time.monotonic() + seconds, known)

    def events(self, lines: Iterator[bytes | None]) -> Iterator[dict[str, Any] | None]:
        """Yield what server-sent events say, None where the server is silent. Raises the error that one of them is."""
        for data in event_data(lines):
            if data == b"[DONE]":  # OpenAI's
                return
            event = None if data is None else json_object(data)
            if event and error_in(event):
                raise self.broken(event)
            yield event

    def left_out(self, request: GenerationRequest) -> tuple[str, ...]:
        said = [name for name in LEFT_OUT if getattr(request, name) is not None]
        sent = self.payload(request) if said else {}
        left = tuple(name for name in said if name not in sent and name not in sent.get("options", ()))
        is_unsaid = request.reasoning_effort not in (None, "none") and "reasoning_effort" in self.refused(request.model)
        return (*left, "reasoning_effort") if is_unsaid else left

    def refused(self, model: str | None) -> frozenset[str]:
        """Return the parameters that `model`, or where that is None its own, is known to refuse."""
        return self._refused.get(model or self.model, frozenset())

    def dropped(self, model: str, names: Set[str], reply: Reply) -> ParameterDropped:
        """Note that `model` refuses these parameters, and return the error for it."""
        # a new set each time, since other threads may be reading the old one
        self._refused[model] = self.refused(model) | names
        words = ", ".join(sorted(names))
        return ParameterDropped(f"this model of {self.name} refuses {words}", param=min(names), detail=reply.detail)

    def allowed(self, model: str, max_tokens: int) -> int:
        """Return `max_tokens`, or the most that `model` is known to allow."""
        return min(max_tokens, self._most_tokens.get(model, max_tokens))

    def _error(self, reply: Reply, payload: Mapping[str, Any] | None, deadline: Deadline) -> LLMAPIError:
        """Translate an error reply; where the request asks for more tokens than the model allows, note how many."""
        name = next((name for name in MOST_TOKENS if name in (payload or ())), None)
        most = output_limit(reply)
        if not (payload and name and most and most < payload[name]):
            return super()._error(reply, payload, deadline)
        self._most_tokens[payload["model"]] = most
        return ParameterDropped(f"this model of {self.name} allows at most {most:,} tokens in an answer", param=name)

    @property
    def is_official(self) -> bool:
        """Whether it is the vendor's own address, which needs a key; a server of one's own may need none."""
        official: str = self.settings.default(f"{self.prefix}_{self.address}")
        return self.base_url == official

    def key(self) -> str | None:
        """Return the key. Raises NotConfigured where there has to be one."""
        name = f"{self.prefix}_api_key"
        key: str | None = getattr(self.settings, name)
        if key or not self.is_official:
            return key
        where = f"put {name.upper()}=... into .env, or export {name.upper()} where the service is started"
        raise NotConfigured(f"{self.name} needs a key: {where}")


def _merged(extra: Mapping[str, Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return `payload` with what it lacks of `extra`; of the options too, which are Ollama's."""
    merged = {**extra, **payload}
    if isinstance(extra.get("options"), dict) and "options" in payload:
        merged["options"] = {**extra["options"], **payload["options"]}
    return merged


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
        what = f"{type(why).__name__}: {why}"
        return InvalidAnswer(f"{backend} answered in what is not HTTP, or not plain enough ({what})")
    dropped = ServerError(f"{backend} broke the connection before it answered")
    dropped.retryable = False
    return dropped


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    return "the connection was refused" if isinstance(error, ConnectionRefusedError) else "no connection"


def _read(response: Received, deadline: Deadline) -> Iterator[bytes]:
    """Yield the body as it arrives, bounded in bytes and time; an empty part where the server is silent."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise InvalidAnswer("the answer is compressed, which was not asked for")
    size = 0
    while True:
        try:
            response.silence = deadline.silence
            data = response.raw.read1(READ_BYTES, decode_content=False)
        except TimeoutError:
            yield b""
            continue
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError):
            deadline.check()
            raise InvalidAnswer("the connection broke in the middle of the answer") from None
        if not data:
            deadline.check()
            return
        size += len(data)
        if size > MAX_ANSWER_BYTES:
            raise InvalidAnswer(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
        yield data
