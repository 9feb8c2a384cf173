"""A client that is made from the description by openapi-python-client has every route, and they work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from e2e.service import Service

CALLS = """
import importlib, json, pkgutil, sys, typing
from made import Client, api
from made.models import Chat, Completion, Error, Generate, Message, MessageRole, Messages, Responses, Turn, TurnRole

bodies = {
    "generate": Generate(prompt="Hello", details=True),
    "chat_completions": Chat(
        model="default", messages=[Message(MessageRole.USER, content="Hello")], n=1, logprobs=False, tool_choice=None
    ),
    "completions": Completion(model="default", prompt="Hello", echo=False, best_of=None),
    "responses": Responses(model="default", input_="Hello"),
}
bodies["messages"] = bodies["count_tokens"] = Messages(
    model="default", messages=[Turn(role=TurnRole.USER, content="Hello")]
)
said = {"role": "user", "content": "Hello"}
plain = {
    "embeddings": {"input": "Hello"},
    "ollama_chat": {"messages": [said], "stream": False},
    "ollama_generate": {"prompt": "Hello", "stream": False},
    "ollama_show": {},
    "ollama_embed": {"input": "Hello"},
    "ollama_embeddings": {"prompt": "Hello"},
}
client, got = Client(sys.argv[1]), {}
for found in pkgutil.walk_packages(api.__path__, "made.api."):
    if not found.ispkg:
        name, call = found.name.rpartition(".")[2], importlib.import_module(found.name).sync_detailed
        if name in plain:
            hint = typing.get_type_hints(call)["body"]
            kind = next(each for each in (hint, *typing.get_args(hint)) if hasattr(each, "from_dict"))
            bodies[name] = kind.from_dict({"model": "default"} | plain[name])
        more = {"body": bodies[name]} if name in bodies else {"model": "default"} if name == "model" else {}
        answer = call(client=client, **more)
        got[name] = [answer.status_code, type(answer.parsed).__name__]
        if name == "generate":
            refused = call(client=client, body=Generate(prompt=""))
            assert isinstance(refused.parsed, Error), refused
print(json.dumps(got))
"""


def test_every_route(require: Callable[..., None], serve: Callable[..., Service], tmp_path: Path) -> None:
    """It is made without a warning, and each of its calls gets the documented type."""
    require("openapi_python_client")
    at = f"http://127.0.0.1:{serve(LLM_BACKEND='stub').port}"
    made = [sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{at}/openapi.json", "--meta", "none"]
    made += ["--output-path", str(tmp_path / "made"), "--config", str(tmp_path / "config.yml")]
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    ended = subprocess.run(made, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr, "WARNING" in ended.stdout) == (0, "", False), ended.stdout
    called = subprocess.run(
        [sys.executable, "-c", CALLS, at], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert called.returncode == 0, called.stderr
    types = {
        **{"generate": "Generated", "chat_completions": "ChatCompletion", "completions": "TextCompletion"},
        **{"messages": "MessageAnswer", "count_tokens": "TokenCount", "responses": "ResponseObject"},
        **{"models": "ModelList", "model": "Model", "config": "Config", "metrics": "str"},
        **{"health": "Health", "live": "Health", "ollama_chat": "OllamaChatted", "ollama_generate": "OllamaGenerated"},
        **{"ollama_tags": "OllamaModels", "ollama_ps": "OllamaModels", "ollama_show": "OllamaShown"},
        "ollama_version": "OllamaVersion",
    }
    vectors = {"embeddings": "Error", "ollama_embed": "OllamaError", "ollama_embeddings": "OllamaError"}  # a stub's
    refused = {name: [400, kind] for name, kind in vectors.items()}
    assert json.loads(called.stdout) == {name: [200, kind] for name, kind in types.items()} | refused
