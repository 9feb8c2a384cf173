"""Every error of the package.

    LLMAPIError                  status code                the request ends with it
    ├── RequestError             4xx                        the client's mistake; no other backend is asked
    │   ├── MalformedBody        400    malformed_json
    │   ├── BodyTooLarge         413    body_too_large
    │   ├── UnsupportedMedia     415    unsupported_media_type
    │   ├── ValidationFailed     422    validation_failed   400 where the dialect says so
    │   ├── NotServed            501    not_served
    │   ├── NoSuchModel          404    model_not_found     not in the lists of the backends
    │   ├── Unauthorized         401    invalid_api_key
    │   ├── UnknownHost          400    unknown_host        no keys, and a name of the service that is not its own
    │   ├── OperatorsOnly        403    operators_only      OPERATORS, or the host, says who else may
    │   ├── ModelForbidden       403    model_not_allowed   the host says so
    │   ├── RateLimitExceeded    429    rate_limit_exceeded
    │   ├── RequestRefused       400    a known code        a backend says that the request itself is wrong
    │   └── ParameterDropped     400    unsupported_parameter  the backend is asked again at once without it
    ├── BackendError                                        falls back; `code` is the reason code
    │   ├── Unreachable          503    unreachable
    │   ├── TimedOut             504    timeout
    │   ├── RateLimited          429    rate_limited
    │   ├── QuotaExhausted       503    rate_limited
    │   ├── Overloaded           503    overloaded
    │   ├── BadCredentials       502    bad_credentials
    │   ├── ModelNotFound        404    model_not_found
    │   ├── ServerError          502    server_error
    │   ├── InvalidAnswer        502    invalid_answer
    │   ├── CircuitOpen          503    circuit_open
    │   ├── NotRecorded          404    not_recorded        nothing in the log to replay
    │   └── NotConfigured        503    not_configured
    ├── ClientGone               499    client_gone         the client reads the answer no longer
    ├── NoCapacity               503    no_capacity         MAX_CONCURRENCY is reached
    ├── LimitsUnavailable        503    limits_unavailable  the storage of the rate limits is away
    ├── LogUnavailable           503    log_unavailable
    └── InternalError            500    internal_error
    ConfigError                                             a setting is wrong; the start ends with it

`message` is in our own words: never an exception's text, which may hold a URL or a key. What an upstream said
about the request is kept apart in `detail`, since it may quote the prompt: the client sees it unless it is about the
account, the log only where prompts are logged.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar


class LLMAPIError(Exception):
    """Root of all errors that end a request.

    `status` is the HTTP status of the answer, `type` and `code` its words (OpenAI's vocabulary), `param` the
    field that is to blame, `retry_after` the seconds after which another try makes sense.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    # whether a client sees `detail`: what a provider says of the account is its owner's business
    detail_is_public: ClassVar[bool] = True

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


class RequestError(LLMAPIError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class MalformedBody(RequestError):
    """The body is not JSON, or not plain JSON."""

    code = "malformed_json"


class BodyTooLarge(RequestError):
    """The body is larger than MAX_BODY_BYTES."""

    status = 413
    code = "body_too_large"


class UnsupportedMedia(RequestError):
    """The body's type is not application/json."""

    status = 415
    code = "unsupported_media_type"


class ValidationFailed(RequestError):
    """A field is wrong.

    `fields` maps each wrong field to its messages, as marshmallow gives them.
    """

    status = 422
    code = "validation_failed"

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


class NotServed(RequestError):
    """The route is a vendor's, and does what this service has no part in."""

    status = 501
    code = "not_served"


class NoSuchModel(RequestError):
    """No backend lists this model."""

    status = 404
    code = "model_not_found"


class Unauthorized(RequestError):
    """The key is missing or not known."""

    status = 401
    code = "invalid_api_key"


class UnknownHost(RequestError):
    """The service has no keys, and was called by a name that is not its own."""

    code = "unknown_host"


class OperatorsOnly(RequestError):
    """Only operators may see this."""

    status = 403
    code = "operators_only"


class ModelForbidden(RequestError):
    """The caller may not use this model."""

    status = 403
    code = "model_not_allowed"


class RateLimitExceeded(RequestError):
    """The caller asks more often than RATE_LIMIT allows.

    `headers` say so to a client.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float, headers: Mapping[str, str]) -> None:
        super().__init__(message, retry_after=retry_after)
        self.headers = headers


class RequestRefused(RequestError):
    """The backend refuses the request."""

    code = "request_refused"


class ParameterDropped(RequestError):
    """The model takes no such parameter.

    The backend has noted it and is to be asked again at once, without it.
    """

    code = "unsupported_parameter"


class BackendError(LLMAPIError):
    """A backend can't serve; the next one of the chain is asked.

    `retryable`: the same backend may be asked again after a pause. `trips`: counts for the circuit breaker, unless it
    is `busy`: it serves, but has no place for this request now.
    """

    status = 502
    type = "backend_error"
    code = "server_error"
    retryable: bool = False
    busy: bool = False
    trips: ClassVar[bool] = False


class Unreachable(BackendError):
    """The backend can't be reached."""

    status = 503
    code = "unreachable"
    retryable = True
    trips = True


class TimedOut(BackendError):
    """No complete answer came in time."""

    status = 504
    code = "timeout"
    trips = True


class RateLimited(BackendError):
    """The backend limits the rate of requests."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"
    detail_is_public = False
    retryable = busy = True


class QuotaExhausted(BackendError):
    """The backend's quota or credit is used up."""

    status = 503
    code = "rate_limited"
    detail_is_public = False


class Overloaded(BackendError):
    """The backend is overloaded."""

    status = 503
    code = "overloaded"
    retryable = True
    trips = True


class BadCredentials(BackendError):
    """The backend does not accept the configured key."""

    code = "bad_credentials"
    detail_is_public = False


class ModelNotFound(BackendError):
    """The backend does not have this model."""

    status = 404
    code = "model_not_found"


class ServerError(BackendError):
    """The backend failed."""

    retryable = True
    trips = True


class InvalidAnswer(BackendError):
    """The backend's answer is not what its API promises."""

    code = "invalid_answer"
    trips = True


class CircuitOpen(BackendError):
    """The backend keeps failing and is left alone for now."""

    status = 503
    code = "circuit_open"


class NotRecorded(BackendError):
    """The log has no answer to replay."""

    status = 404
    code = "not_recorded"


class Unsupported(BackendError):
    """The backend lacks what the request needs."""

    status = 400
    type = "invalid_request_error"
    code = "unsupported"


class NotConfigured(BackendError):
    """The backend lacks a key or a package."""

    status = 503
    code = "not_configured"


class ClientGone(LLMAPIError):
    """The client left. Status 499 is nginx's word for it; only the log sees it."""

    status = 499
    type = "client_error"
    code = "client_gone"

    def __init__(self, message: str = "the client went away before the answer was complete") -> None:
        super().__init__(message)


class NoCapacity(LLMAPIError):
    """As many requests run as MAX_CONCURRENCY allows."""

    status = 503
    code = "no_capacity"


class LimitsUnavailable(LLMAPIError):
    """The storage of the rate limits can't be reached."""

    status = 503
    code = "limits_unavailable"


class LogUnavailable(LLMAPIError):
    """The log can't be written."""

    status = 503
    code = "log_unavailable"


class InternalError(LLMAPIError):
    """Something broke inside the service.

    `stack_of` tells the error output where.
    """

    def __init__(self, message: str = "something broke inside the service; its error output says more") -> None:
        super().__init__(message)


def stack_of(error: BaseException) -> str:
    """Return where an unforeseen error came from, for the error output: never its text, which may quote anything."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def words_for(status: int) -> str:
    """Return what an answer of that status may mean: a sentence for each error that ends with it."""
    return " ".join((kind.__doc__ or "").partition("\n")[0] for kind in _leaves(LLMAPIError) if kind.status == status)


def _leaves(kind: type[LLMAPIError]) -> Iterator[type[LLMAPIError]]:
    for child in kind.__subclasses__():
        yield from _leaves(child)
    if not kind.__subclasses__():
        yield kind


class ConfigError(ValueError):
    """A setting has a wrong value; the message names it, the value and what is allowed."""
