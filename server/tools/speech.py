"""How the text of one chat answer is to be read: which tools it may call, whether it reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qoq.server.pieces import Pieces
from qoq.server.tools.reader import Parser
from qoq.server.tools.reasoning import Thinking, read_after, read_content
from qoq.server.tools.tool import Tool
from qoq.server.tools.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class Speech:
    """``tool_format`` None: calls are not looked for. ``is_named``: the client named the tool.

    ``pieces`` hold the markers that are special tokens, as text.
    """

    tools: tuple[Tool, ...]
    tool_format: ToolFormat | None
    thinking: Thinking
    is_named: bool
    pieces: Pieces

    def parser(self) -> Parser:
        """For the text of one choice."""
        tool_format, tools = self.tool_format, self.tools
        if tool_format is None:
            return Parser(read_after(self.thinking, read_content))
        read = tool_format.read
        return Parser(read_after(self.thinking, lambda reader: read(reader, tools)))

    @property
    def new_call_id(self) -> Callable[[], str]:
        assert self.tool_format is not None, "only a tool format reads calls"
        return self.tool_format.new_call_id
