"""What one model's chat template and tokenizer say of tools and reasoning: found, never set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from qoq.server.errors import ApiError
from qoq.server.structured.constraint import Constraint, constraint_of
from qoq.server.structured.grammar import Grammar, literal
from qoq.server.tokenizer import Tokenizer
from qoq.server.tools.reasoning import CLOSE, OPEN, Thinking, find_thinking, grammar_after
from qoq.server.tools.speech import Speech
from qoq.server.tools.tool import Tool
from qoq.server.tools.tool_format import ToolFormat, find_tool_format
from qoq.server.tools.wire import FunctionTool, NamedToolChoice, ToolsBody


class Dialect:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._template = tokenizer.chat_template or ""
        self._tool_format = find_tool_format(self._template)
        self._special_ids = tokenizer.special_ids
        markers = () if self._tool_format is None else self._tool_format.markers
        self._pieces = tokenizer.pieces_with((OPEN, CLOSE, *markers))

    def tools_for(self, body: ToolsBody) -> list[FunctionTool]:
        """The tools that the model is told of. Raises ApiError (400)."""
        tools, choice = body.tools or [], body.tool_choice
        if choice == "none" or not tools:
            if choice not in (None, "none", "auto"):
                raise _invalid("tool_choice", "it asks for a call, but there are no tools")
            return []
        if self._tool_format is None:
            raise _invalid("tools", "this model's chat template has no tools that we know")
        names = [tool.function.name for tool in tools]
        if len(set(names)) < len(names):
            raise _invalid("tools", "two of them have the same name")
        if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
            raise _invalid("tool_choice", f"there is no tool '{choice.function.name}'")
        return tools

    def speech(self, body: ToolsBody, prompt: str) -> Speech | None:
        """How to read the answer to ``prompt``; None where all of it is content."""
        tools = tuple(_as_tool(tool) for tool in self.tools_for(body))
        thinking = find_thinking(self._template, prompt)
        if not tools and thinking is Thinking.NEVER:
            return None
        is_named = isinstance(body.tool_choice, NamedToolChoice)
        tool_format = self._tool_format if tools else None
        return Speech(tools, tool_format, thinking, is_named, self._pieces)

    def constraint(self, body: ToolsBody, speech: Speech | None) -> Constraint | None:
        """What the answer must follow: calls that are required, or the form that is asked for."""
        wanted = constraint_of(body)
        if speech is None:
            return wanted
        is_required = speech.is_named or body.tool_choice == "required"
        if speech.tool_format is not None and (is_required or wanted is not None):
            calls = self._calls(body, speech, speech.tool_format)
            if wanted is not None and not is_required:
                calls = wanted.grammar.otherwise(calls)
            wanted = Constraint("tools", calls)
        if wanted is None:
            return None
        return replace(wanted, grammar=grammar_after(speech.thinking, wanted.grammar, self.spell))

    def _calls(self, body: ToolsBody, speech: Speech, tool_format: ToolFormat) -> Grammar:
        tools: Sequence[Tool] = speech.tools
        if isinstance(body.tool_choice, NamedToolChoice):
            tools = [tool for tool in tools if tool.name == body.tool_choice.function.name]
        is_parallel = body.parallel_tool_calls is not False and not speech.is_named
        return tool_format.grammar(tools, spell=self.spell, is_parallel=is_parallel)

    def spell(self, text: str) -> str:
        """Lark for a text in which special tokens are meant as such."""
        names = [name for name in self._special_ids if name in text]
        if not names:
            return literal(text)
        pattern = f"({'|'.join(map(re.escape, names))})"
        parts = [part for part in re.split(pattern, text) if part]
        return " ".join(
            f"<[{self._special_ids[part]}]>" if part in self._special_ids else literal(part)
            for part in parts
        )


def _as_tool(tool: FunctionTool) -> Tool:
    function = tool.function
    parameters = {"type": "object"} if function.parameters is None else function.parameters
    for key, kind in (("properties", dict), ("required", list), ("$defs", dict)):
        if not isinstance(parameters.get(key, kind()), kind):
            raise _invalid("tools", f"'{key}' in the parameters of '{function.name}' is malformed")
    return Tool(function.name, parameters, is_strict=bool(function.strict))


def _invalid(param: str, complaint: str) -> ApiError:
    return ApiError(f"Invalid '{param}': {complaint}.", param=param, code="invalid_value")
