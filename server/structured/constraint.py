"""Which grammar a body asks for, and under which name it did."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qoq.server.errors import ApiError
from qoq.server.structured.grammar import Grammar, Json, of_choice, of_lark, of_regex, of_schema
from qoq.server.structured.wire import ResponseFormat, StructuredBody, StructuredOutputs

_ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """``param`` is the path of the field to blame where the grammar is not valid."""

    param: str
    grammar: Grammar


def constraint_of(body: StructuredBody) -> Constraint | None:
    """Raises ApiError (400) where two fields ask, or one is not valid in itself."""
    asked = [field for field in _fields(body) if field[1] is not None]
    if not asked:
        return None
    if len(asked) > 1:
        first, second = asked[0][0], asked[1][0]
        raise ApiError(
            f"{first} and {second} both set the form of the output; give one of them.",
            param=second,
            code="invalid_value",
        )
    param, value, make = asked[0]
    try:
        return Constraint(param, Grammar((make(value),)))
    except (ValueError, RecursionError) as error:
        raise invalid_grammar(param, str(error)) from error


def invalid_grammar(param: str, message: str) -> ApiError:
    return ApiError(f"Invalid '{param}': {message}.", param=param, code="invalid_grammar")


def _fields(body: StructuredBody) -> list[tuple[str, Any, Callable[[Any], Json]]]:
    """Path, value or None, and how to make a grammar of the value."""
    outputs = body.structured_outputs or StructuredOutputs.model_construct()
    return [
        ("response_format", _schema_of(body.response_format), of_schema),
        ("structured_outputs.json_object", _ANY_OBJECT if outputs.json_object else None, of_schema),
        ("structured_outputs.json", outputs.json_, _of_schema_or_text),
        ("structured_outputs.regex", outputs.regex, of_regex),
        ("structured_outputs.choice", outputs.choice, of_choice),
        ("structured_outputs.grammar", outputs.grammar, of_lark),
        ("guided_json", body.guided_json, _of_schema_or_text),
        ("guided_regex", body.guided_regex, of_regex),
        ("guided_choice", body.guided_choice, of_choice),
        ("guided_grammar", body.guided_grammar, of_lark),
    ]


def _schema_of(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return _ANY_OBJECT
    return wanted.json_schema.schema_ or {}


def _of_schema_or_text(schema: dict[str, Any] | str) -> Json:
    return of_schema(json.loads(schema) if isinstance(schema, str) else schema)
