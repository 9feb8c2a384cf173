"""The recordings: exchanges with real providers, in the source archives that requirements.txt pins."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "recorded"
PINNED = re.findall(r"(?m)^([a-z-]+)==(\S+)", Path(__file__).with_name("requirements.txt").read_text())
CASSETTE = re.compile(r".*/cassettes/(?P<name>.*?)\.yaml(\.gz)?")

Json = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """One request and its answer. `asked` is the request's JSON, None where it is none; `answer` the answer's bytes."""

    name: str
    url: str
    asked: Any
    status: int
    answer: bytes

    @property
    def sdist(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_streamed(self) -> bool:
        """Whether the answer came as events or lines."""
        return self.answer.lstrip().startswith((b"data:", b"event:", b":")) or b"}\n{" in self.answer

    @property
    def kind(self) -> str:
        """What was spoken: the key of WIRES, or of EXCUSED. langchain-openai has blackened its addresses."""
        url = self.url.partition("?")[0]
        known = next((kind for kind, end in ENDS.items() if re.search(end, url)), None)
        if known or not isinstance(self.asked, dict):
            return known or "other"
        if "messages" in self.asked:
            return "claude" if "anthropic" in self.sdist else "openai"
        return "embeddings" if b'"embedding"' in self.answer else "responses"

    def __str__(self) -> str:
        return self.name


# The ends of addresses by which an exchange's kind is known.
ENDS = {
    "openai": r"/chat/completions$",
    "claude": r"/v1/messages$|/model/anthropic\.[^/]*/invoke$",
    "ollama": r"/api/chat$",
    "responses": r"/v1/responses$",
    "embeddings": r"/embeddings$",
    "completions": r"/v1/completions$",
    "complete": r"/v1/complete$",
    "generate": r"/api/generate$",
    "assistants": r"/v1/(assistants|threads)\b",
    "pictures": r"/v1/images/|upload\.wikimedia\.org",
}
# Kinds that aren't replayed, and why.
EXCUSED = {
    "responses": "OpenAI's Responses: its requests and answers are read and written, and no backend is asked so",
    "embeddings": "embeddings: issue 20",
    "completions": "OpenAI's Completions: its requests are replayed, and no backend is asked so",
    "complete": "Anthropic's Text Completions, which no backend is asked for",
    "generate": "Ollama's /api/generate, which no backend is asked for",
    "assistants": "OpenAI's Assistants",
    "pictures": "pictures made, or fetched by a client",
    "other": "LangSmith's, or files that a client fetched",
}


@cache
def exchanges() -> tuple[Exchange, ...]:
    """Return all that is recorded. Raises FileNotFoundError where `make test-recorded` has not downloaded it."""
    return tuple(exchange for name, version in PINNED for exchange in _in_sdist(name, version))


def of_kind(*kinds: str) -> list[Exchange]:
    return [exchange for exchange in exchanges() if exchange.kind in kinds]


def _in_sdist(name: str, version: str) -> Iterator[Exchange]:
    with tarfile.open(FOLDER / f"{name.replace('-', '_')}-{version}.tar.gz") as archive:
        for member in archive:
            if found := CASSETTE.fullmatch(member.name):
                data = archive.extractfile(member)
                assert data
                yield from _in_cassette(f"{name}/{found['name']}", _plain(data.read()))


def _in_cassette(name: str, text: bytes) -> Iterator[Exchange]:
    """vcrpy's, and LangChain's, which has two lists in place of one of pairs."""
    said = yaml.load(text, yaml.CSafeLoader)
    pairs = [(pair["request"], pair["response"]) for pair in said.get("interactions", ())]
    for number, (request, response) in enumerate(pairs or zip(said["requests"], said["responses"], strict=True)):
        answer = _plain(_bytes(response["body"]["string"]))
        asked = _json(request.get("body"))
        yield Exchange(f"{name}/{number}", request["uri"], asked, response["status"]["code"], answer)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _plain(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def _json(body: str | bytes | None) -> Any:
    try:
        return json.loads(body or b"null")
    except ValueError:
        return None
