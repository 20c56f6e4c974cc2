"""Llama 3: the answer is a call, ``{"name": ..., "parameters": {...}}``, or several of them.

Nothing marks a call but that the answer begins with it, so only the name of a tool makes it one.
"""

from __future__ import annotations

from collections.abc import Sequence

from qoq.server.tools.json_call import NotACallError, read_call
from qoq.server.tools.parts import Content
from qoq.server.tools.reader import Reader, Script, read_text
from qoq.server.tools.tool import Tool

TAG = "<|python_tag|>"


def read(reader: Reader, tools: Sequence[Tool]) -> Script[None]:
    names = {tool.name for tool in tools}
    has_called = False
    yield from reader.take_if(TAG)
    while (yield from _may_call(reader, has_called)):
        try:
            yield from read_call(reader, names)
        except NotACallError as error:
            yield Content(error.text)
            break
        has_called = True
    yield from read_text(reader, Content, trims_start=has_called, trims_end=has_called)


def _may_call(reader: Reader, has_called: bool) -> Script[bool]:
    """Whether a call may come next; a semicolon may stand before all but the first."""
    if has_called:
        yield from reader.skip_space()
        yield from reader.take_if(";")
    while not (text := reader.text.lstrip()) and not reader.is_complete:
        yield None
    return text.startswith("{")
