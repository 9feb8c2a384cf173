"""The README's first screen is true."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from .service import Service

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"```sh\n(curl (?:(?!```).)*)```\n\n```json\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize(("line", "answer"), EXAMPLES, ids=["whole", "stream"])
def test_curl_and_its_answer(smollm2: Service, line: str, answer: str) -> None:
    """Each curl line of the README, sent to the model that make run starts, gets the answer printed below it."""
    words = shlex.split(line.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{smollm2.port}").replace("\\\n", ""))
    assert subprocess.run([*words, "-s"], capture_output=True, text=True, check=True).stdout == answer


def test_the_openai_client(smollm2: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python, run with the official client, prints an answer of the model."""
    (code,) = re.findall(r"```python\n(from openai .*?)```", README.read_text(), re.DOTALL)
    address = "http://127.0.0.1:8000/v1"
    assert address in code
    exec(compile(code.replace(address, f"http://127.0.0.1:{smollm2.port}/v1"), "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert printed
    assert not printed.startswith("[stub]")


@pytest.mark.parametrize("words", ["make run", "make test", "requirements-local.txt", "requirements-dev.txt"])
def test_commands_are_there(words: str) -> None:
    """What the README tells a user to type is in the project."""
    assert words in README.read_text()
    kind, _, name = words.rpartition(" ")
    assert (README.parent / name).exists() if not kind else f"\n{name}:" in (README.parent / "Makefile").read_text()
