"""The description of the API (OpenAPI 3.1). It is in openapi.json, which `make openapi` writes.

tools/openapi.py makes it from the schemas that read the bodies and the views' docstrings.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import strict_json

FILE = Path(__file__).with_suffix(".json")
# Stands there where the setting of that name is to; its name alone in words.
LIMIT = '"MAX_PROMPT_CHARS"'
REFERENCE = re.compile(r'"#/components/schemas/(\w+)"')


@lru_cache
def describe(endpoints: frozenset[str], blueprint: str, max_prompt_chars: int) -> dict[str, Any]:
    """Return the description of what a `blueprint` serves, of which an app has these `endpoints`."""
    text = FILE.read_text("utf-8").replace(LIMIT, str(max_prompt_chars))
    said: dict[str, Any] = strict_json.decode(text.replace(LIMIT.strip('"'), f"{max_prompt_chars:,}"))
    paths, schemas = said["paths"], said["components"]["schemas"]
    said["paths"] = {
        path: methods
        for path, methods in paths.items()
        if any(f"{blueprint}.{operation['operationId']}" in endpoints for operation in methods.values())
    }
    named = REFERENCE.findall(strict_json.dumps(said["paths"]))
    for name in named:  # which grows
        named += set(REFERENCE.findall(strict_json.dumps(schemas[name]))).difference(named)
    said["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name in named}
    return said
