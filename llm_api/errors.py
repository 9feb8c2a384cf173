"""Every error of the package, each with its HTTP status and its code.

`message` is in our own words: never an exception's text, which may hold a URL or a key. What an upstream said
about the request is kept apart in `detail`, since it may quote the prompt: the client sees it unless it is about the
account, the log only where prompts are logged.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar


class LLMAPIError(Exception):
    """Root of all errors that end a request.

    `status` is the HTTP status of the answer, `type` and `code` its words (OpenAI's vocabulary), `headers` what it has
    beside them, `param` the field that is to blame, `retry_after` the seconds after which another try makes sense.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    headers: Mapping[str, str] = MappingProxyType({})
    # whether a client sees `detail`: what a provider says of the account is its owner's business
    detail_is_public: ClassVar[bool] = True

    def __init_subclass__(cls, **words: object) -> None:
        """Take a class's own words and traits from its first line, so that the classes read as a table."""
        for name, value in words.items():
            assert hasattr(cls, name), name
            setattr(cls, name, value)

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        detail: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.detail = detail
        self.retry_after = retry_after

    def redact(self, clean: Callable[[str], str]) -> None:
        """Pass through `clean` what others said, which may quote a key."""
        self.detail = self.detail and clean(self.detail)
        self.param = self.param and clean(self.param)
        self.code = clean(self.code)

    def words(self) -> str:
        """Return the message with what an upstream said, for those who may see that."""
        return f"{self.message}: {self.detail}" if self.detail else self.message

    def public(self) -> dict[str, str | None]:
        """Return the `error` object of an answer: message, type, code, param."""
        message = self.words() if self.detail_is_public else self.message
        return {"message": message, "type": self.type, "code": self.code, "param": self.param}


class RequestError(LLMAPIError, status=400, type="invalid_request_error", code="invalid_request"):
    """The client's mistake: no other backend is asked."""


class MalformedBody(RequestError, code="malformed_json"):
    """The body is not JSON, or not plain JSON."""


class BodyTooLarge(RequestError, status=413, code="body_too_large"):
    """The body is larger than MAX_BODY_BYTES."""


class UnsupportedMedia(RequestError, status=415, code="unsupported_media_type"):
    """The body's type is not application/json."""


class ValidationFailed(RequestError, status=422, code="validation_failed"):
    """A field is wrong.

    `fields` maps each wrong field to its messages, as marshmallow gives them.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None,
        fields: Mapping[str, object],
        status: int = 422,
        code: str | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.fields = fields
        self.status = status


class NotServed(RequestError, status=501, code="not_served"):
    """The route is a vendor's, and does what this service has no part in."""


class NoSuchModel(RequestError, status=404, code="model_not_found"):
    """No backend lists this model."""


class Unauthorized(RequestError, status=401, code="invalid_api_key"):
    """The key is missing or not known."""

    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class UnknownHost(RequestError, code="unknown_host"):
    """The service has no keys, and was called by a name that is not its own."""


class OperatorsOnly(RequestError, status=403, code="operators_only"):
    """Only operators may see this."""


class ModelForbidden(RequestError, status=403, code="model_not_allowed"):
    """The caller may not use this model."""


class RateLimitExceeded(RequestError, status=429, type="rate_limit_error", code="rate_limit_exceeded"):
    """The caller asks more often than RATE_LIMIT allows."""

    def __init__(self, message: str, *, retry_after: float, headers: Mapping[str, str]) -> None:
        super().__init__(message, retry_after=retry_after)
        self.headers = headers


class RequestRefused(RequestError, code="request_refused"):
    """The backend refuses the request."""


class ParameterDropped(RequestError, code="unsupported_parameter"):
    """The model takes no such parameter.

    The backend has noted it and is to be asked again at once, without it.
    """


class BackendError(LLMAPIError, status=502, type="backend_error", code="server_error"):
    """A backend can't serve; the next one of the chain is asked, and the log has `code` for the reason.

    `retryable`: the same backend may be asked again after a pause. `trips`: counts for the circuit breaker, unless it
    is `busy`: it serves, but has no place for this request now.
    """

    retryable: bool = False
    busy: bool = False
    trips: ClassVar[bool] = False
    # our own retries are used up; the SDKs' on top of them would make nine of three (docs/providers.md, 1.5)
    headers = MappingProxyType({"x-should-retry": "false"})


class Unreachable(BackendError, status=503, code="unreachable", retryable=True, trips=True):
    """The backend can't be reached."""


class TimedOut(BackendError, status=504, code="timeout", trips=True):
    """No complete answer came in time."""


class RateLimited(BackendError, status=429, type="rate_limit_error", code="rate_limited", detail_is_public=False):
    """The backend limits the rate of requests."""

    retryable = busy = True


class QuotaExhausted(BackendError, status=503, code="rate_limited", detail_is_public=False):
    """The backend's quota or credit is used up."""


class Overloaded(BackendError, status=503, code="overloaded", retryable=True, trips=True):
    """The backend is overloaded."""


class BadCredentials(BackendError, code="bad_credentials", detail_is_public=False):
    """The backend does not accept the configured key."""


class ModelNotFound(BackendError, status=404, code="model_not_found"):
    """The backend does not have this model."""


class ServerError(BackendError, retryable=True, trips=True):
    """The backend failed."""


class InvalidAnswer(BackendError, code="invalid_answer", trips=True):
    """The backend's answer is not what its API promises."""


class CircuitOpen(BackendError, status=503, code="circuit_open"):
    """The backend keeps failing and is left alone for now."""


class NotRecorded(BackendError, status=404, code="not_recorded"):
    """The log has no answer to replay."""


class Unsupported(BackendError, status=400, type="invalid_request_error", code="unsupported"):
    """The backend lacks what the request needs."""


class NotConfigured(BackendError, status=503, code="not_configured"):
    """The backend lacks a key or a package."""


class ClientGone(LLMAPIError, status=499, type="client_error", code="client_gone"):
    """The client left. Status 499 is nginx's word for it; only the log sees it."""

    def __init__(self, message: str = "the client went away before the answer was complete") -> None:
        super().__init__(message)


class NoCapacity(LLMAPIError, status=503, code="no_capacity"):
    """As many requests run as MAX_CONCURRENCY allows."""


class LimitsUnavailable(LLMAPIError, status=503, code="limits_unavailable"):
    """The storage of the rate limits can't be reached."""


class LogUnavailable(LLMAPIError, status=503, code="log_unavailable"):
    """The log can't be written."""


class InternalError(LLMAPIError):
    """Something broke inside the service.

    `stack_of` tells the error output where.
    """

    def __init__(self, message: str = "something broke inside the service; its error output says more") -> None:
        super().__init__(message)


def stack_of(error: BaseException) -> str:
    """Return where an unforeseen error came from, for the error output: never its text, which may quote anything."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


class ConfigError(ValueError):
    """A setting has a wrong value; the message names it, the value and what is allowed."""
