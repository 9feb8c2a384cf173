"""What a dialect is: data and pure functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

from .. import strict_json
from ..errors import LLMAPIError, ValidationFailed
from ..types import Answer, Chunk, EmbeddingRequest, Head, Image, Request
from .fields import UNSAID, Limits, Readable

# A proxy in front gives up on a connection that is silent for a minute (nginx, proxy_read_timeout).
HEARTBEAT_SECONDS = 10.0
# What clients of server-sent events pass over (WHATWG HTML, 9.2.6).
COMMENT = ": {}\n\n"
# Of English; a picture of about a megapixel takes 1,600 tokens (platform.claude.com, vision).
CHARS_A_TOKEN = 4
IMAGE_TOKENS = 1_600


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for: the request, and `shows`, whether the answer also has what the dialect adds on demand.

    `ignored` names what of the body no backend is told, `foreign` what only the dialect's own vendor is. `body` is what
    came, for a dialect whose answers repeat it.
    """

    request: Request
    shows: bool = False
    ignored: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict)


class Dialect(ABC):
    """How one route reads bodies and frames answers; made once for a service, shared by all threads.

    `rule` is the route, `name` its endpoint, `operation` its name in log and metrics, `media_type` that of its streams.
    `wrong_field` is the status for a wrong field, `conversation` the field that holds what the model reads.
    `heartbeat`: seconds of silence after which `pieces` is given an empty chunk; None: never. `keep_alive` is what is
    then sent in place of the empty piece.
    `headers`: what a client says beside the body, WSGI's names for it with the fields that it becomes.
    `schema_of` is the schema of its bodies, `front` the one of settings.FRONTS that it belongs to, `below` where errors
    are its own besides its route.
    `any_type`: clients send their JSON under whatever type, as `curl -d` does.
    `request_id`: the header in which clients look for the request's id, beside ours; `sign` the one, in WSGI's words,
    by which they are known on the routes that have no dialect.
    """

    front: ClassVar[str]
    rule: ClassVar[str]
    below: ClassVar[str | None] = None
    name: ClassVar[str]
    operation: ClassVar[str]
    media_type: ClassVar[str]
    wrong_field: ClassVar[int] = 422
    conversation: ClassVar[str] = "prompt"
    heartbeat: ClassVar[float | None] = None
    keep_alive: ClassVar[str] = ""
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    any_type: ClassVar[bool] = False
    request_id: ClassVar[str | None] = None
    sign: ClassVar[str | None] = None

    schema_of: ClassVar[type[Readable]]

    def __init__(self, max_prompt_chars: int, max_image_bytes: int) -> None:
        """Make the schema of the body: how long its texts may be together, how large each picture's file."""
        self.limits = Limits(max_prompt_chars, max_image_bytes)
        self.schema = self.schema_of()
        self._known = {field.data_key or name for name, field in self.schema.fields.items()}

    def read(self, body: Mapping[str, Any]) -> Asked:
        """Return what a body asks for. Raises ValidationFailed with the wrong fields."""
        asked: Asked = self.schema.read(body, self.wrong_field, self.limits)
        unknown = sorted(name for name in body.keys() - self._known if body[name] not in UNSAID)
        return replace(asked, ignored=(*unknown, *asked.ignored)) if unknown else asked

    def idle(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a body that asks no model anything, None where it does."""
        return None

    @abstractmethod
    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        """Return the body of a whole answer."""

    def pieces(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        """Yield the texts of a streamed answer. An error of `chunks` becomes the last of them, and is raised again."""
        try:
            yield from self.frames(head, chunks, asked)
        except LLMAPIError as error:
            yield self.broken(error)
            raise

    def frames(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        """Yield the texts of a streamed answer that does not break."""
        raise NotImplementedError("what this route answers does not come in pieces")

    def status(self, error: LLMAPIError) -> int:
        """Return the HTTP status of an error."""
        return error.status

    def error(self, error: LLMAPIError, request_id: str) -> dict[str, Any]:
        """Return the body of an error."""
        body: dict[str, Any] = {"error": self._public(error), "request_id": request_id}
        return body | {"fields": error.fields} if isinstance(error, ValidationFailed) else body

    @abstractmethod
    def broken(self, error: LLMAPIError) -> str:
        """Return the text that ends a stream which breaks off."""

    def _public(self, error: LLMAPIError) -> dict[str, str | None]:
        said = error.public()
        # the backends call what the model reads the prompt; a body has its own names
        is_theirs = error.param == "prompt" and not isinstance(error, ValidationFailed)
        return said | {"param": self.conversation} if is_theirs else said


def estimate(request: Request) -> int:
    """Return about how many tokens a model reads of a request."""
    told = [*request.texts] if isinstance(request, EmbeddingRequest) else []
    for tool in request.tools:
        told += [tool.name, tool.description or "", strict_json.dumps(tool.parameters)]
    chars = sum(message.chars for message in request.messages) + sum(map(len, told))
    images = sum(isinstance(part, Image) for message in request.messages for part in message.parts)
    return max(1, chars // CHARS_A_TOKEN + images * IMAGE_TOKENS)


def line(value: object) -> str:
    """Return a line of JSON."""
    return f"{strict_json.dumps(value)}\n"


def event(value: object, name: str = "") -> str:
    """Return a server-sent event, with a `name` or without."""
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {strict_json.dumps(value)}\n\n"


def template(write: Callable[..., str], holes: int = 1) -> Callable[..., str]:
    """Return a function of as many values as there are `holes`, which returns the JSON that `write` makes of them.

    `write` is called once: what it writes around the values is kept. It has them in the order in which it takes them.
    """
    marks = [f"\x00{hole}" for hole in range(holes)]  # no body has NUL (strict_json.loads), and no name is only that
    written = write(*marks).replace("%", "%%")
    for mark in marks:
        written = written.replace(strict_json.dumps(mark), "%s")
    return lambda *values: written % tuple(map(strict_json.dumps, values))


class Conversational(Dialect):
    """A dialect of conversations, in the manner of the vendors: streams of server-sent events, and 400 for a field."""

    media_type = "text/event-stream"
    wrong_field = 400
    heartbeat: ClassVar[float | None] = HEARTBEAT_SECONDS
    keep_alive: ClassVar[str] = COMMENT.format("keep-alive")

    def read(self, body: Mapping[str, Any]) -> Asked:
        """As Dialect's; the texts of a conversation are bounded together. Agents shorten it where the code says so.

        A client of a vendor's dialect learns from the answer's end that its JSON is cut.
        """
        asked = super().read(body)
        chars = sum(message.chars for message in asked.request.messages)
        if chars > self.limits.prompt_chars:
            words = f"Has {chars:,} characters, 1 to {self.limits.prompt_chars:,} are allowed (MAX_PROMPT_CHARS)."
            raise ValidationFailed(
                f"{self.conversation}: {words}",
                code="context_length_exceeded",
                param=self.conversation,
                fields={self.conversation: [words]},
                status=self.wrong_field,
            )
        if wanted := asked.request.response_format:
            wanted = replace(wanted, may_be_cut=True)
            asked = replace(asked, request=replace(asked.request, response_format=wanted))
        return asked
