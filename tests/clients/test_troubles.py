"""Each client where the far end fails: it ends with the service's words, and takes half an answer for none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.service import Service, running
from faults.upstreams import OPENAI, UNTIL_CLOSED, Peer, Upstream, upstream

from .clients import start
from .test_wires import FRONTS

REASON = "This model does not do that."
CLIENTS = [client + front for client, fronts in FRONTS.items() for front in fronts]
CLIENTS += ["openai", "openai responses", "anthropic", "ollama"]


def refuse(peer: Peer) -> None:
    """Blame the request."""
    body = json.dumps({"error": {"message": REASON, "type": "invalid_request_error"}}).encode()
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    peer.send(head.encode() + body)


def break_off(peer: Peer) -> None:
    """Go away in the middle of an answer."""
    peer.send(UNTIL_CLOSED + OPENAI.pieces[0])


@pytest.fixture(scope="module")
def far_end() -> Iterator[Upstream]:
    """A far end that a test tells what to do."""
    with upstream(refuse) as server:
        yield server


@pytest.fixture(scope="module")
def service(far_end: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service before it."""
    settings = OPENAI.settings(far_end) | {"LLM_FALLBACK": "none", "OPENAI_API_KEY": "far"}
    with running(tmp_path_factory.mktemp("troubles"), **settings) as service:
        yield service


@pytest.mark.parametrize("client", CLIENTS)
def test_refused(client: str, service: Service, far_end: Upstream, tmp_path: Path) -> None:
    """The provider's reason reaches the client's user."""
    far_end.script = refuse
    done = start(client, service, tmp_path)
    assert done.returncode != 0
    assert REASON in done.stderr + done.stdout


@pytest.mark.parametrize("client", CLIENTS)
def test_broken_off(client: str, service: Service, far_end: Upstream, tmp_path: Path) -> None:
    """A stream that ends too early is an error, never an answer."""
    far_end.script = break_off
    done = start(f"{client} stream", service, tmp_path)
    assert done.returncode != 0
    assert "ended before it was complete" in done.stderr + done.stdout
