"""What a client does: it asks one of the routes that generate, and reads the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

# What the fixtures of conftest.py give: makers of clients, and the lines of the log.
Serve = Callable[..., FlaskClient]
Log = Callable[[], list[dict[str, Any]]]
# Each route that generates, with a body for it and its operation in log and metrics.
USER = {"role": "user", "content": "Hi"}
GENERATE: dict[str, tuple[dict[str, Any], str]] = {
    "/generate": ({"prompt": "Hi"}, "generate"),
    "/v1/chat/completions": ({"model": "default", "messages": [USER]}, "chat"),
    "/v1/completions": ({"model": "default", "prompt": "Hi"}, "completion"),
    "/v1/messages": ({"model": "default", "messages": [USER]}, "message"),
    "/v1/responses": ({"model": "default", "input": "Hi"}, "response"),
}


def ask(
    client: FlaskClient,
    path: str = "/generate",
    *,
    headers: dict[str, str] | None = None,
    address: str = "127.0.0.1",
    **fields: Any,
) -> TestResponse:
    """Post the route's plain body with `fields`; read the answer to its end."""
    body, peer = GENERATE[path][0] | fields, {"REMOTE_ADDR": address}
    return client.post(path, json=body, headers=headers, environ_overrides=peer, buffered=True)


def error_of(reply: TestResponse) -> dict[str, Any]:
    """Return the error of an answer in the one envelope that all errors have; Anthropic's has a `type` too."""
    body = reply.get_json()
    assert body.pop("type", "error") == "error"
    assert body.keys() - {"fields"} == {"error", "request_id"}
    assert body["request_id"] == reply.headers["X-Request-ID"]
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "code", "param"}
    return error


def lines_of(reply: TestResponse) -> list[dict[str, Any]]:
    """Return the lines of a streamed answer."""
    *lines, rest = reply.data.split(b"\n")
    assert rest == b"", "a stream ends with a newline"
    return [json.loads(line) for line in lines]


def texts_of(reply: TestResponse) -> list[str]:
    """Return the pieces of a streamed answer that ended well."""
    *pieces, last = lines_of(reply)
    assert last["done"] is True, last
    assert "error" not in last
    return [piece["response"] for piece in pieces]


def read_events(data: bytes) -> list[Any]:
    """Return what a whole stream's `data:` lines hold; fail on what clients can't read (docs/providers.md, 8.1)."""
    *frames, rest = data.split(b"\n\n")
    assert rest == b"", "a stream ends with a blank line"
    found = []
    for frame in frames:
        assert b"\n" not in frame, "one line an event"
        if frame.startswith(b":"):
            continue
        name, _, value = frame.partition(b": ")
        assert (name, bool(value)) == (b"data", True)
        found.append("[DONE]" if value == b"[DONE]" else json.loads(value))
    return found


def outcomes(line: dict[str, Any]) -> list[tuple[str, str]]:
    """Return which backends were asked and how that ended, as the log has it."""
    return [(attempt["backend"], attempt["outcome"]) for attempt in line["attempts"]]
