"""Answers that must be JSON: whether a schema is one, and whether an answer fits it (JSON Schema, draft 2020-12).

A schema comes from a stranger. So it fetches nothing, its patterns run in an engine with a time limit (Python's own
holds every thread of the process meanwhile), every keyword minds the deadline (references and unevaluated… can
double the work at each level), and no part of it switches to another dialect, whose validator minds none of this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import regex
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema_specifications import REGISTRY
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from .. import strict_json
from ..errors import InvalidAnswer, LLMAPIError, RequestRefused
from ..runtime.deadline import Deadline
from ..types import Chunk, ResponseFormat

PATTERN_SECONDS = 1.0
MAX_SCHEMA_CHARS = 100_000
# A pattern twice as long takes four times as long to compile: 49,000 empty groups took minutes.
MAX_PATTERN_CHARS = 1_000
MAX_QUOTE_CHARS = 200
# What models that are only told to answer in JSON put around it; a stop text may have taken the second fence.
FENCED = re.compile(r"\s*```(?:[A-Za-z][\w+-]*(?=[\s{\[]))?(.*?)(?:```\s*)?", re.DOTALL)
# Reasons for which an answer ends before its end.
CUT = {"length": "the token limit (max_tokens)", "content_filter": "a content filter"}
Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]


_FORMATS = FormatChecker(())


@_FORMATS.checks("regex", raises=regex.error)
def _is_pattern(text: object) -> bool:
    if isinstance(text, str) and len(text) <= MAX_PATTERN_CHARS:
        regex.compile(text)
        return True
    return not isinstance(text, str)


def _flat_schema_of_schemas() -> dict[str, Any]:
    """The dialect's own schema in one piece: with its dynamic references 16,000 parts took 36 s, so they take 1.4."""
    top = Draft202012Validator.META_SCHEMA
    parts = [REGISTRY.contents(urljoin(top["$id"], part["$ref"])) for part in top["allOf"]]
    flat: dict[str, Any] = {"type": ["object", "boolean"], "properties": {}, "$defs": {}}
    for part in (top, *parts):
        flat["properties"] |= part["properties"]
        flat["$defs"] |= part.get("$defs", {})
    whole: dict[str, Any] = strict_json.decode(strict_json.dumps(flat).replace('"$dynamicRef": "#meta"', '"$ref": "#"'))
    return whole


_SCHEMAS = Draft202012Validator(_flat_schema_of_schemas(), format_checker=_FORMATS)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise ValueError, in words for the caller, unless `schema` is a JSON Schema that answers can be held against."""
    if len(text := strict_json.dumps(schema)) > MAX_SCHEMA_CHARS:
        raise ValueError(f"has more than {MAX_SCHEMA_CHARS:,} characters")
    if '"patternProperties"' in text:
        raise ValueError("has patternProperties, which are not supported")
    if text.count('"$schema"') > ("$schema" in schema):
        raise ValueError("has $schema below its top, which is not supported")
    try:
        wrong = next(_SCHEMAS.iter_errors(schema), None)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if wrong:
        raise ValueError(f"is not a JSON Schema: {wrong.message[:MAX_QUOTE_CHARS]}")


def checked(chunks: list[Chunk], wanted: ResponseFormat, deadline: Deadline) -> list[Chunk]:
    """Return the chunks of a whole answer, without a fence around its JSON.

    Raises InvalidAnswer unless it is what is `wanted`, a refusal, a call, or cut where it may be;
    RequestRefused where the schema can't be used.
    """
    text, cut_by = "".join(chunk.text for chunk in chunks), CUT.get(chunks[-1].finish_reason or "")
    if any(chunk.refusal or chunk.calls for chunk in chunks) or (cut_by and wanted.may_be_cut):
        return chunks
    fenced = FENCED.fullmatch(text)
    try:
        value = strict_json.decode(fenced[1] if fenced else text)
    except ValueError:
        cut = f"{cut_by} cut the model's JSON short"
        raise InvalidAnswer(cut if cut_by else "the model's answer is not JSON") from None
    _check(value, wanted, deadline)
    return _with_text(chunks, fenced[1].strip()) if fenced else chunks


def _with_text(chunks: list[Chunk], text: str) -> list[Chunk]:
    first, *others = (replace(chunk, text="") for chunk in chunks)
    return [replace(first, text=text), *(chunk for chunk in others if chunk != Chunk(model=chunk.model))]


def _check(value: object, wanted: ResponseFormat, deadline: Deadline) -> None:
    if wanted.schema is None:
        if not isinstance(value, dict):
            raise InvalidAnswer("the model's answer is not a JSON object")
        return
    try:
        misfit = next(_errors(wanted.schema, value, deadline), None)
    except LLMAPIError:
        raise
    except Exception as error:  # whatever a stranger's schema makes a library stumble over
        raise RequestRefused(
            f"answers can't be held against this schema ({type(error).__name__})", param="response_format"
        ) from None
    if misfit:
        where = "/".join(map(str, misfit.absolute_schema_path))
        raise InvalidAnswer("the model's answer does not fit the schema", detail=f"at {where}")


def _errors(schema: Mapping[str, Any], value: object, deadline: Deadline) -> Iterator[ValidationError]:
    keywords = {**Draft202012Validator.VALIDATORS, "pattern": _pattern}
    in_time = {name: _minding(deadline, check) for name, check in keywords.items()}
    bounded = validators.extend(Draft202012Validator, in_time)
    # What has $schema is followed by that dialect's own validator: the top, and the dialects' own schemas, which
    # are in every registry that is not given as a resolver.
    top = {name: item for name, item in schema.items() if name != "$schema"}
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(top))
    found: Iterator[ValidationError] = bounded(top, _resolver=resolver).iter_errors(value)
    return found


def _minding(deadline: Deadline, check: Keyword) -> Keyword:
    def run(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        deadline.check()
        yield from check(validator, value, instance, schema) or ()

    return run


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=PATTERN_SECONDS, concurrent=True):
        yield ValidationError("does not match")
