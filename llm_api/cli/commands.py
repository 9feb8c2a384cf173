"""`flask llm …`: an answer, the log's tools, keys, the doctor."""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import click
from flask.cli import AppGroup

from .. import strict_json
from ..dialects.generate import answer_details
from ..errors import LLMAPIError
from ..types import Answer
from ..web.service import service
from .doctor import examine
from .logs import logs

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

llm = AppGroup("llm")
llm.add_command(logs)
keys = AppGroup("keys", help="Callers' keys.")
llm.add_command(keys)


@llm.command("generate")
@click.argument("prompt", required=False)
@click.option("--system", help="The system message.")
@click.option("--model", help="A model of the configured backend, or backend/model.")
@click.option("--max-tokens", type=int)
@click.option("--temperature", type=float)
@click.option("--seed", type=int)
@click.option("--stream", is_flag=True, help="Show the answer as it comes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with backend, tokens and time.")
@click.option("--fallback/--no-fallback", default=True, help="Whether another backend may answer.")
def generate(prompt: str | None, stream: bool, as_json: bool, **fields: Any) -> None:
    """Answer PROMPT, or what comes through a pipe. Exit code 1 where nothing can answer."""
    prompt = None if prompt == "-" else prompt
    if not prompt and sys.stdin.isatty():
        raise click.UsageError("give a prompt, or pipe one in")
    # bytes that are no text are refused with the words for any other prompt
    prompt = prompt or sys.stdin.buffer.read().decode(errors="surrogateescape").rstrip("\n")
    with _failing():
        (_show_stream if stream and not as_json else _show_answer)(prompt, as_json, fields)


@llm.command("embed")
@click.argument("texts", nargs=-1)
@click.option("--model", help="A model of the configured backend, or backend/model.")
@click.option("--dimensions", type=int)
def embed(texts: tuple[str, ...], **fields: Any) -> None:
    """Turn TEXTS, or the lines of a pipe, into vectors: one in JSON a line. Exit code 1 where nothing can."""
    if not texts and sys.stdin.isatty():
        raise click.UsageError("give texts, or pipe lines in")
    texts = texts or tuple(sys.stdin.buffer.read().decode(errors="surrogateescape").splitlines())
    with _failing(), _waiting():
        answer = service().embed(texts, **fields)
    for vector in answer.vectors:
        click.echo(strict_json.dumps(list(vector)))


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except LLMAPIError as error:
        raise click.ClickException(f"{error.public()['message']} ({error.code})") from None


def _show_answer(prompt: str, as_json: bool, fields: dict[str, Any]) -> None:
    with _waiting():
        answer = service().generate(prompt, **fields)
    click.echo(strict_json.dumps({"text": str(answer)} | answer_details(answer)) if as_json else str(answer))
    _say_who(answer)


def _show_stream(prompt: str, as_json: bool, fields: dict[str, Any]) -> None:
    pieces = _pieces(prompt, fields)
    with _waiting():
        first = next(pieces, "")
    for piece in chain([first], pieces):
        click.echo(piece, nl=False)


def _pieces(prompt: str, fields: dict[str, Any]) -> Iterator[str]:
    answer = yield from service().stream(prompt, **fields)
    yield "\n"
    _say_who(answer)


def _say_who(answer: Answer) -> None:
    if answer.fallback:
        click.echo(f"answered by {answer.backend}: {answer.fallback_reason}", err=True)


@contextmanager
def _waiting() -> Iterator[None]:
    """Show on a terminal that something goes on: a model may be loading."""
    words = "waiting for the model" if sys.stderr.isatty() else ""
    click.echo(words, err=True, nl=False)
    try:
        yield
    finally:
        click.echo("\b \b" * len(words), err=True, nl=False)


@keys.command("new")
@click.argument("name")
def new_key(name: str) -> None:
    """Make a key for NAME: it is shown once, the service needs its hash only."""
    if not re.fullmatch(r"(?!sha256$)[\w.@-]{1,64}", name):
        raise click.BadParameter("a name has up to 64 letters, digits, and . @ _ -")
    key = f"llm-{secrets.token_urlsafe(32)}"
    click.echo(f"For {name}, not shown again:  {key}")
    click.echo(f"Into API_KEYS, with a comma between keys:  {name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}")


@llm.command()
@click.option("--nginx", type=FILE, help="nginx's site, to check too.")
@click.option(
    "--manifest", "manifests", type=FILE, multiple=True, help="A Kubernetes manifest or Compose file, to check too."
)
def doctor(nginx: Path | None, manifests: tuple[Path, ...]) -> None:
    """Check this deployment, and say how to repair what is wrong. Exit code 1 on an error."""
    findings = list(examine(service(), nginx, manifests))
    for finding in findings:
        remedy = f"\n         {finding.remedy}" if finding.remedy and finding.level != "ok" else ""
        click.echo(f"{finding.level:8} {finding.what}{remedy}")
    sys.exit(any(finding.level == "error" for finding in findings))
