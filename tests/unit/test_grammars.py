"""What of a JSON schema the local model's engine is given to make a grammar of."""

from __future__ import annotations

from typing import Any

import pytest

from llm_api.backends import grammars
from llm_api.errors import RequestRefused

KEPT = {
    r"^\d{4}-\d{2}-\d{2}$": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    r"^[\w.-]+$": "^[A-Za-z0-9_.-]+$",
    r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$": r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$",
    r"^(\([0-9]{3}\))? ?[0-9]{4}$": r"^(\([0-9]{3}\))? ?[0-9]{4}$",
    r"^(yes|no)(?:, (yes|no))*$": r"^(yes|no)(?:, (yes|no))*$",
    r"^[\d\.]{1,3}(-[A-F]){5}$": "^[0-9.]{1,3}(-[A-F]){5}$",
}
LEFT_OUT = [
    # could end a string
    "^.+$", "^[^@]+$", r"^\S+$", r"^\s$", "^[A-z]$", '^"$', "^[ -~]$", r"^\\$", r"^\x22$", "^a\n$",
    "^(a?){1000}$", f"^{'a?' * 400}b$", "^((a?){99}){9}$",  # very many ways
    "^a++$", "^a*?$", "^(?=a)$", "^(?i:a)$", "^(?:a){e<=1}$",  # another engine's
]  # fmt: skip


def in_a_list(part: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that has `part` below others."""
    return {"anyOf": [{"type": "object", "properties": {"pattern": {"items": part}}}], "const": None}


@pytest.mark.parametrize(("pattern", "given"), KEPT.items())
def test_patterns_in_its_words(pattern: str, given: str) -> None:
    """Classes that llama.cpp has no names for are written out; the rest is as it is."""
    assert grammars.fitting(in_a_list({"pattern": pattern})) == in_a_list({"pattern": given})


@pytest.mark.parametrize("pattern", LEFT_OUT)
def test_patterns_that_are_left_out(pattern: str) -> None:
    """What could end a string of JSON, or keep the one loop busy, is not told; the answer is held to it afterwards."""
    assert grammars.fitting(in_a_list({"pattern": pattern, "minLength": 1})) == in_a_list({"minLength": 1})


def test_bounds() -> None:
    """Those of 64-bit integers, which code generators write, are as good as none."""
    of_64_bits = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1, "exclusiveMaximum": 1e300}
    assert grammars.fitting(in_a_list(of_64_bits)) == in_a_list({"type": "integer"})
    small = {"type": "integer", "minimum": -(2**53), "maximum": 2**53, "const": 10**30}
    assert grammars.fitting(in_a_list(small)) == in_a_list(small)


@pytest.mark.parametrize("part", [{"minLength": 5, "maxLength": 4}, {"minItems": 2.0, "maxItems": 1}])
def test_a_least_over_the_most(part: dict[str, Any]) -> None:
    """No answer fits it: the client's mistake."""
    with pytest.raises(RequestRefused) as caught:
        grammars.fitting(in_a_list(part), "tools")
    assert caught.value.param == "tools"
    assert "is over its max" in (caught.value.public()["message"] or "")


def test_data_is_no_schema() -> None:
    """Values and examples stay as they are, whatever their names; a property of such a name has a schema."""
    odd = [{"pattern": ".", "minLength": 5, "maxLength": 4, "minimum": 10**18}]
    schema = {"enum": odd, "examples": odd}
    assert grammars.fitting(schema) == schema
    assert grammars.fitting({"properties": {"enum": {"pattern": "."}}}) == {"properties": {"enum": {}}}


def test_long_schemas() -> None:
    """Of a long one llama.cpp's loop makes a grammar for minutes, of many tools, and of a long pattern among them."""
    with pytest.raises(RequestRefused, match="can't take"):
        grammars.fitting({"enum": ["word"] * 2000})
    long = {"type": "string", "pattern": "|".join(["word"] * 2001)}
    assert grammars.fitting([long], "tools", grammars.MAX_TOOLS_CHARS) == [{"type": "string"}]
    with pytest.raises(RequestRefused, match="can't take") as caught:
        grammars.fitting([long] * 10, "tools", grammars.MAX_TOOLS_CHARS)
    assert caught.value.param == "tools"


def test_a_pattern_that_can_be_read_in_many_ways() -> None:
    """Looking at it here takes a moment too: it is kept where it has few enough quantifiers, however they stand."""
    pattern = "a?" * 16 + "b" * 9000
    assert grammars.fitting({"pattern": pattern}) == {"pattern": pattern}
