"""Running the clients, and what holds of every loop."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
from e2e.service import PROJECT, Service

HERE = Path(__file__).parent
ENVIRONMENT = PROJECT / "build" / "clients"
RESULT = "18 degrees in "
ARGUMENTS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


def run_loop(client: str, service: Service, home: Path) -> list[dict[str, Any]]:
    """Run a client's loop to its end, hold what it says against what the service logged, and return those lines."""
    before = len(service.log())
    ended = _run(client, service, home)
    lines = service.log()[before:]
    assert {line["http_status"] for line in lines} == {200}
    assert ended["answer"]
    for line in lines:
        for name, given in calls_of(line):
            assert name in line["tools"]
            if name != "final_answer":
                jsonschema.validate(given, ARGUMENTS)
    if client.startswith("instructor"):  # its call is its end
        assert [given for _, given in calls_of(lines[0])] == [ended["answer"]]
        return lines
    called = [list(call) for line in lines for call in calls_of(line) if call[0] == "weather"]
    assert called == ended["called"] or client.startswith("llm")
    _check_results(client, *lines[:2])
    return lines


def _check_results(client: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """The result of each call of the first answer is in the second request, under the call's id."""
    calls = first["tool_calls"]
    if "ollama" in client:  # these lose the ids; what they send has the calls in their order
        calls = [call for message in second["messages"] for call in message.get("tool_calls", ())]
        assert calls_of({"tool_calls": calls}) == calls_of(first)
    expected = [(call["id"], RESULT + json.loads(call["arguments"])["city"]) for call in calls]
    assert expected
    if client.startswith("smolagents"):  # it tells all this in words
        said = json.dumps(second["messages"])
        assert all(part in said for each in expected for part in each)
        return
    results = [message for message in second["messages"] if message["role"] == "tool"]
    assert [(result["tool_call_id"], result["content"]) for result in results] == expected


def _run(client: str, service: Service, home: Path) -> dict[str, Any]:
    done = start(client, service, home)
    assert done.returncode == 0, f"{done.stderr}\n{service.log()[-2:]}"
    return json.loads(done.stdout.splitlines()[-1])


def start(client: str, service: Service, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, whatever that is."""
    url = f"http://127.0.0.1:{service.port}/v1"
    is_node = client.startswith(("ai", "ollama_js"))
    python, node = (
        [ENVIRONMENT / "bin" / "python", HERE / "loops.py"],
        ["node_modules/.bin/node", "--input-type=module", "-"],
    )
    return subprocess.run(
        [*(node if is_node else python), client, url],
        cwd=ENVIRONMENT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "NO_PROXY": "127.0.0.1"},
        input=(HERE / "loops.mjs").read_text() if is_node else "",
        capture_output=True,
        text=True,
        timeout=900,
    )


def calls_of(line: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls that a logged answer has."""
    return [(call["name"], json.loads(call["arguments"])) for call in line.get("tool_calls", ())]
