"""What the service does before every real server."""

from __future__ import annotations

from typing import Any

from .service import Service

COUNT = {"prompt": "Count from 1 to 10.", "temperature": 0, "max_tokens": 24}


def check_stream(service: Service, **said: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A stream has the whole answer's text and usage, and begins before its line is logged; return its lines."""
    asked = (said or COUNT) | {"details": True}
    whole = service.generate(**asked).body
    with service.ask(**asked, stream=True) as answer:
        request_id = answer.head()["X-Request-ID"]
        lines = answer.lines()
        first = next(lines)
        logged_at_first = service.log(request_id=request_id)
        *pieces, last = [first, *lines]

    assert not logged_at_first
    assert "".join(piece["response"] for piece in pieces) == whole["response"]
    for name in ("input_tokens", "output_tokens"):  # what was cached is another number the second time
        assert last["details"]["usage"][name] == whole["details"]["usage"][name]
    assert len(service.log(request_id=request_id, status="ok")) == 1
    return pieces, last
