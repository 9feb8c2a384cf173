"""The README's first screen is true."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from .service import Service

README = Path(__file__).parents[2] / "README.md"


def test_curl_and_its_answer(smollm2: Service) -> None:
    """The README's curl line, sent to the model that make run starts, gets the answer that stands below it."""
    found = re.search(r"```sh\n(curl .*?)```\n\n```json\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    line, answer = found.groups()
    words = shlex.split(line.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{smollm2.port}").replace("\\\n", ""))
    assert subprocess.run([*words, "-s"], capture_output=True, text=True, check=True).stdout == answer


@pytest.mark.parametrize("words", ["make run", "make test", "requirements-local.txt", "requirements-dev.txt"])
def test_commands_are_there(words: str) -> None:
    """What the README tells a user to type is in the project."""
    assert words in README.read_text()
    kind, _, name = words.rpartition(" ")
    assert (README.parent / name).exists() if not kind else f"\n{name}:" in (README.parent / "Makefile").read_text()
