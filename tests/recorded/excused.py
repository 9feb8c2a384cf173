"""What of the recordings is not replayed, each with its reason; test_counts.py counts them."""

from __future__ import annotations

import json
from collections.abc import Callable

from .cassettes import Exchange, Json

Excuses = dict[str, Callable[[Exchange], bool]]

# Answers to what our backends don't ask for.
ANSWERS: Excuses = {
    "functions, of before tools: no backend asks so": lambda x: "functions" in x.asked,
    "two choices: no backend asks so": lambda x: x.asked.get("n", 1) > 1,
    "compaction by Anthropic: no backend asks so": lambda x: b'"stop_reason":"compaction"' in x.answer,
}
# Requests with what the middle language has no words for. Our fronts refuse those that they read (test_refused).
REQUESTS: Excuses = {
    "functions, of before tools": lambda x: "functions" in x.asked,
    "two choices": lambda x: x.asked.get("n", 1) > 1,
    "a page in place of a picture": lambda x: PAGE in json.dumps(x.asked),
    "tools that Anthropic runs": lambda x: any("type" in tool for tool in _tools(x)) or bool(_blocks(x) & SERVERS),
    "skills, MCP servers, context management": lambda x: not x.asked.keys().isdisjoint(MANAGED),
    "documents and search results": lambda x: bool(_blocks(x) & {"document", "search_result"}),
}
# "Please set a user-agent" is what the picture's server had said.
PAGE = "data:image/jpeg;base64,UGxlYXNlIHNldCBhIHVzZXItYWdlbn"
MANAGED = ("container", "mcp_servers", "context_management")
SERVERS = {"server_tool_use", "tool_addition", "mcp_tool_use"}


def why(exchange: Exchange, excuses: Excuses) -> str | None:
    """Return the reason for which it isn't replayed, or None."""
    return next((reason for reason, fits in excuses.items() if fits(exchange)), None)


def _tools(exchange: Exchange) -> list[Json]:
    """Return Anthropic's tools; those that a client runs have no type."""
    tools: list[Json] = exchange.asked.get("tools", []) if exchange.kind == "claude" else []
    return tools


def _blocks(exchange: Exchange) -> set[str]:
    """Return the types of all blocks that were sent, inside others too."""
    found: set[str] = set()

    def note(block: Json) -> Json:
        found.add(str(block.get("type")))
        return block

    json.loads(json.dumps(exchange.asked.get("messages")), object_hook=note)
    return found
