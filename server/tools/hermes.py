"""Hermes and Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, any number."""

from __future__ import annotations

from collections.abc import Sequence

from qoq.server.tools.json_call import NotACallError, read_call
from qoq.server.tools.parts import Content
from qoq.server.tools.reader import Reader, Script, read_text
from qoq.server.tools.tool import Tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def read(reader: Reader, tools: Sequence[Tool]) -> Script[None]:
    has_called = False
    while (
        yield from read_text(reader, Content, OPEN, trims_start=has_called, trims_end=has_called)
    ):
        try:
            yield from read_call(reader)
        except NotACallError as error:
            yield Content(OPEN + error.text)
            continue
        has_called = True
        yield from reader.read_until(CLOSE)
