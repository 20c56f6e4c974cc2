"""Mistral: ``[TOOL_CALLS]`` before a JSON list of calls, or, since v11, before each call.

The newer form is ``[TOOL_CALLS]name[ARGS]{...}``, with ``[CALL_ID]...`` in between in some models.
"""

from __future__ import annotations

from collections.abc import Sequence

from qoq.server.tools.json_call import NotACallError, read_arguments, read_call
from qoq.server.tools.parts import CallStart, Content
from qoq.server.tools.reader import Reader, Script, read_text
from qoq.server.tools.tool import Tool

OPEN, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


def read(reader: Reader, tools: Sequence[Tool]) -> Script[None]:
    has_called = False
    while (
        yield from read_text(reader, Content, OPEN, trims_start=has_called, trims_end=has_called)
    ):
        is_list = (yield from reader.skip_space()) == "["
        try:
            yield from _read_list(reader) if is_list else _read_named(reader)
        except NotACallError as error:
            yield Content(OPEN + error.text)
            continue
        has_called = True


def _read_list(reader: Reader) -> Script[None]:
    taken = reader.take(1)
    while (yield from reader.skip_space()) == "{":
        try:
            yield from read_call(reader)
        except NotACallError as error:
            raise NotACallError(taken + error.text) from None
        if (yield from reader.skip_space()) == ",":
            reader.take(1)
    if (yield from reader.skip_space()) == "]":
        reader.take(1)


def _read_named(reader: Reader) -> Script[None]:
    name, marker = yield from reader.read_until(ARGS, CALL_ID)
    if marker is None:
        raise NotACallError(name)
    yield CallStart(name.strip())
    if marker == CALL_ID:
        yield from reader.read_until(ARGS)
    yield from reader.skip_space()
    yield from read_arguments(reader)
