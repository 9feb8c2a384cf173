"""Answers that must be JSON: whether a schema is one, and whether an answer fits it (JSON Schema, draft 2020-12).

A schema comes from a stranger. So it fetches nothing, its patterns run in an engine with a time limit (Python's own
holds every thread of the process meanwhile), and references, which can double the work at each level, mind the
deadline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from . import strict_json
from .deadline import Deadline
from .errors import InvalidAnswer, RequestRefused
from .types import ResponseFormat

PATTERN_SECONDS = 1.0
MAX_SCHEMA_CHARS = 100_000
MAX_QUOTE_CHARS = 200
_NOWHERE: Registry[Any] = Registry()


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise ValueError, in words for the caller, unless `schema` is a JSON Schema that answers can be held against."""
    if len(text := strict_json.dumps(schema)) > MAX_SCHEMA_CHARS:
        raise ValueError(f"has more than {MAX_SCHEMA_CHARS:,} characters")
    if '"patternProperties"' in text:
        raise ValueError("has patternProperties, which are not supported")
    try:
        Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        raise ValueError(f"is not a JSON Schema: {error.message[:MAX_QUOTE_CHARS]}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def check_answer(text: str, wanted: ResponseFormat, deadline: Deadline) -> None:
    """Raise InvalidAnswer unless `text` is the JSON that is `wanted`; RequestRefused where its schema can't be used."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise InvalidAnswer("the model's answer is not JSON, or max_tokens cut it short") from None
    if wanted.schema is None:
        if not isinstance(value, dict):
            raise InvalidAnswer("the model's answer is not a JSON object")
        return
    try:
        misfit = next(_errors(wanted.schema, value, deadline), None)
    except (Unresolvable, RecursionError, TimeoutError, regex.error) as error:
        raise RequestRefused(
            f"answers can't be held against this schema ({type(error).__name__})", param="response_format"
        ) from None
    if misfit:
        where = "/".join(map(str, misfit.absolute_path)) or "its top"
        raise InvalidAnswer("the model's answer does not fit the schema", detail=f"{misfit.validator}, at {where}")


def _errors(schema: Mapping[str, Any], value: object, deadline: Deadline) -> Iterator[ValidationError]:
    follow = Draft202012Validator.VALIDATORS["$ref"]

    def reference(validator: Any, ref: Any, instance: Any, holder: Any) -> Iterator[ValidationError]:
        deadline.check()
        yield from follow(validator, ref, instance, holder) or ()

    bounded = validators.extend(Draft202012Validator, {"$ref": reference, "pattern": _pattern})  # type: ignore[no-untyped-call]
    found: Iterator[ValidationError] = bounded(schema, registry=_NOWHERE).iter_errors(value)
    return found


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=PATTERN_SECONDS, concurrent=True):
        yield ValidationError("does not match")


def _refuse(name: str) -> None:
    raise ValueError(name)
