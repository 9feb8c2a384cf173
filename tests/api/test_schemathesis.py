"""Whatever fits the description is accepted, whatever does not is refused, and every answer is a documented one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from e2e.service import Service

RUN = ("--max-examples=100", "--seed=1", "--continue-on-failure", "--output-sanitize=false", "--no-color")
ELSEWHERE = (
    # valid_data_is_accepted and invalid_data_is_refused stand in for them
    "--exclude-checks=positive_data_acceptance,negative_data_rejection",
    # the stub has no embeddings, so whatever is sent there is refused
    "--warnings=missing_auth,missing_test_data",
    # /v1/models/{model} takes any text, so most of the wrong ones that are made up for it are right.
    "--suppress-health-check=filter_too_much",
    "--generation-database=none",
)


def test_generated_requests(require: Callable[..., None], serve: Callable[..., Service], tmp_path: Path) -> None:
    """Schemathesis finds no 500, no answer that is not documented, no valid body refused and no wrong one accepted."""
    require("schemathesis")
    # A text's limit in bytes and the body's own don't meet: each wrong text is refused as one.
    service = serve(LLM_BACKEND="stub", MAX_PROMPT_CHARS=1000)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{service.port}/openapi.json"]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run(
        [*command, *RUN, *ELSEWHERE], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    said = ended.stdout
    print(said[said.rfind("API Operations:") :])
    # A part of the description that it can't use is a warning only.
    assert (ended.returncode, "WARNINGS" in said) == (0, False), said + ended.stderr
    assert re.search(r"Operations: +(\d+) selected / \1 total", said)
    assert int(re.search(r"(\d+) generated, \1 passed", said)[1]) > 1000
