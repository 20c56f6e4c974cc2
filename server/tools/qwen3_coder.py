"""Qwen3-Coder: ``<function=NAME><parameter=KEY>value</parameter>...</function>`` in a tool_call.

Values are plain text; the tool's schema says which of them are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from qoq.server.tools.parts import CallArguments, CallStart, Content
from qoq.server.tools.reader import Reader, Script, read_text
from qoq.server.tools.tool import Tool

CALL, CALL_END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
# Keywords of a schema without a type, which may allow more than a string.
_OTHER_KINDS = frozenset({"anyOf", "oneOf", "allOf", "$ref"})


def read(reader: Reader, tools: Sequence[Tool]) -> Script[None]:
    properties = {tool.name: tool.properties for tool in tools}
    has_called = False
    while marker := (
        yield from read_text(
            reader, Content, CALL, FUNCTION, trims_start=has_called, trims_end=has_called
        )
    ):
        if marker == CALL:
            skipped, marker = yield from reader.read_until(FUNCTION)
            if marker is None:
                yield Content(CALL + skipped)
                return
        name, _ = yield from reader.read_until(">")
        yield CallStart(name.strip())
        yield from _read_parameters(reader, properties.get(name.strip(), {}))
        has_called = True
        yield from reader.skip_space()
        yield from reader.take_if(CALL_END)


def _read_parameters(reader: Reader, properties: dict[str, Any]) -> Script[None]:
    opening = "{"
    while True:
        _, marker = yield from reader.read_until(PARAMETER, FUNCTION_END, CALL_END)
        if marker != PARAMETER:
            break
        key, _ = yield from reader.read_until(">")
        yield CallArguments(f"{opening}{_quoted(key.strip())}: ")
        opening = ", "
        yield from reader.take_if("\n")
        if is_text(properties.get(key.strip())):
            yield from _read_text(reader)
        else:
            value, _ = yield from reader.read_until(PARAMETER_END)
            yield CallArguments(_as_json(value.strip()))
    yield CallArguments("{}" if opening == "{" else "}")


def _read_text(reader: Reader) -> Script[None]:
    """A JSON string, escaped piece by piece."""
    yield CallArguments('"')
    while True:
        text, marker = reader.take_until("\n" + PARAMETER_END, PARAMETER_END)
        if text:
            yield CallArguments(_quoted(text)[1:-1])
        if marker is not None or reader.is_complete:
            break
        yield None
    yield CallArguments('"')


def is_text(schema: object) -> bool:
    """Whether a value is taken as it is written: a string, or what the schema does not tell."""
    if not isinstance(schema, dict):
        return True
    return schema.get("type", "string") == "string" and not _OTHER_KINDS & schema.keys()


def _as_json(text: str) -> str:
    """The text where it is JSON, else the JSON string of it."""
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return _quoted(text)
    return text


def _refuse(constant: str) -> NoReturn:
    """NaN and its like are no JSON, although Python reads them."""
    raise ValueError(constant)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
