"""What schemathesis loads beside its own checks; test_schemathesis.py names it."""

from __future__ import annotations

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

# What the description can't say: the stub has no JSON and no eyes; the others hold of any string or number, in unknown
# fields too.
REFUSED = (
    "stub does not serve ",
    "stub makes no embeddings",
    "There is no such tool to choose.",
    "Two tools have the same name.",
    "Only a user's message",
    "Has no text.",
    "A tool's message needs the id",
    "The picture is ",
    "(MAX_PROMPT_CHARS)",
    "This role has no such block.",
    "are no JSON Schema",
    "the body has a NUL character or half of a surrogate pair in a string",
    "the body has an integer of more than 20 digits",
)


@schemathesis.check
def valid_data_is_accepted(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Its own check, but for what is REFUSED."""
    error = response.json()["error"] if response.status_code in (400, 422) else ""
    said = error if isinstance(error, str) else error["message"]  # Ollama's is the text itself
    if any(words in said for words in REFUSED):
        return None
    return positive_data_acceptance(ctx, response, case)


@schemathesis.check
def invalid_data_is_refused(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Its own check, but for Ollama's routes: there an empty text or list is an unset field, whatever it should be."""
    if case.operation.path.startswith("/api/"):
        return None
    return negative_data_rejection(ctx, response, case)
