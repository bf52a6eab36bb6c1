"""From a JSON schema to a grammar that answers have to follow, by llama-cpp-python's converter.

The converter writes repetitions out, so a small schema can ask for more memory than there is: such ones are refused
before they are converted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llama_cpp.llama_grammar import JSON_GBNF, LlamaGrammar

from edge_eds.apps.server.errors import ApiError, invalid

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_MAX_COUNT = 1000  # llama.cpp itself refuses grammars with more than 2000 repetitions
_MAX_PATTERN = 200
_MAX_DEPTH = 100
_MAX_GRAMMAR = 256 * 1024  # letters


def json_grammar() -> str:
    """The grammar of any JSON value."""
    return str(JSON_GBNF)


def schema_grammar(schema: Mapping[str, Any], param: str) -> str:
    """The grammar of the JSON values that fit `schema`.

    Raises:
        ApiError: a schema that cannot be converted, or is too large.
    """
    check_schema(schema, param)
    try:
        grammar = str(LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)._grammar)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, re.error) as error:
        raise _bad(f"the schema cannot be made into a grammar: {error or type(error).__name__}", param) from error
    if len(grammar) > _MAX_GRAMMAR:
        raise _bad(f"the schema makes a grammar of {len(grammar)} letters, expected at most {_MAX_GRAMMAR}", param)
    return grammar


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Refuse what the converter would write out without end.

    Raises:
        ApiError: a schema with too many repetitions, or nested too deep.
    """
    for node in _nodes(schema, param):
        for name in _COUNTS:
            count = node.get(name)
            if isinstance(count, int | float) and count > _MAX_COUNT:
                raise _bad(f"{name} is {count:g} in the schema, expected at most {_MAX_COUNT}", param)
        pattern = node.get("pattern")
        if isinstance(pattern, str):
            counts = [int(digits) for digits in re.findall(r"\d+", "".join(re.findall(r"\{[^}]*\}", pattern)))]
            if len(pattern) > _MAX_PATTERN or math.prod(max(count, 1) for count in counts) > _MAX_COUNT:
                raise _bad(f"pattern {pattern[:40]!r} in the schema is too long or repeats too often", param)


def _nodes(value: Any, param: str, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > _MAX_DEPTH:
        raise _bad(f"the schema is nested more than {_MAX_DEPTH} deep", param)
    if isinstance(value, Mapping):
        yield value
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for child in children:
        yield from _nodes(child, param, depth + 1)


def _bad(message: str, param: str) -> ApiError:
    return invalid(message, param, code="invalid_json_schema")
