"""The grammar of an answer that is nothing but calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qoq.server.structured.grammar import Grammar, Json, literal, of_schema
from qoq.server.tools import qwen3_coder
from qoq.server.tools.tool import Tool

Spell = Callable[[str], str]
"""Text with markers in it -> Lark, which has another spelling for special tokens."""

_NAME_END = ">\n"
_VALUE_END = f"\n{qwen3_coder.PARAMETER_END}\n"
_TEXT_VALUE = f"text_value[suffix={literal(_VALUE_END)}]: /(.|\\n)*/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The text around a call's name, after its arguments, and around and between calls."""

    opening: str = ""
    before_name: str
    after_name: str
    after_call: str = ""
    separator: str
    closing: str = ""


def json_calls(
    tools: Sequence[Tool], layout: Layout, spell: Spell, *, is_parallel: bool
) -> Grammar:
    calls = [
        f"{spell(layout.before_name)} {literal(tool.name)} {spell(layout.after_name)} "
        f"@tool{place} {spell(layout.after_call)}"
        for place, tool in enumerate(tools)
    ]
    more = f"({spell(layout.separator)} call)*" if is_parallel else ""
    start = f"{spell(layout.opening)} call {more} {spell(layout.closing)}"
    parts = [
        of_schema(tool.parameters, f"tool{place}", is_lenient=not tool.is_strict)
        for place, tool in enumerate(tools)
    ]
    return _grammar(start, calls, [], parts)


def qwen3_coder_calls(tools: Sequence[Tool], spell: Spell, *, is_parallel: bool) -> Grammar:
    """Parameters come in the order of the schema; those that are not required may be left out."""
    calls, rules, parts = [], [_TEXT_VALUE], []
    opening = spell(f"{qwen3_coder.CALL}\n{qwen3_coder.FUNCTION}")
    closing = spell(f"{qwen3_coder.FUNCTION_END}\n{qwen3_coder.CALL_END}")
    for place, tool in enumerate(tools):
        parameters = [
            _Parameter(tool, key, f"value{place}x{index}")
            for index, key in enumerate(tool.properties)
        ]
        uses = " ".join(parameter.use for parameter in parameters)
        name = literal(tool.name + _NAME_END)
        calls.append(f"{opening} {name} {uses} {closing}")
        rules += [parameter.rule for parameter in parameters]
        parts += [parameter.part for parameter in parameters if not parameter.is_text]
    start = 'call ("\\n" call)*' if is_parallel else "call"
    return _grammar(start, calls, rules, parts)


@dataclass(frozen=True, slots=True)
class _Parameter:
    """``name`` is that of the Lark rule, and of the schema's part."""

    tool: Tool
    key: str
    name: str

    @property
    def is_text(self) -> bool:
        return qwen3_coder.is_text(self.tool.properties[self.key])

    @property
    def use(self) -> str:
        is_required = self.key in self.tool.parameters.get("required", [])
        return self.name if is_required else f"{self.name}?"

    @property
    def rule(self) -> str:
        value = "text_value" if self.is_text else f"@{self.name} {literal(_VALUE_END)}"
        opening = literal(qwen3_coder.PARAMETER + self.key + _NAME_END)
        return f"{self.name}: {opening} {value}"

    @property
    def part(self) -> Json:
        schema = self.tool.properties[self.key]
        if isinstance(schema, dict):
            schema = {**schema, "$defs": self.tool.parameters.get("$defs", {})}
        return of_schema(schema, self.name, is_lenient=not self.tool.is_strict)


def _grammar(
    start: str, calls: Sequence[str], rules: Sequence[str], parts: Sequence[Json]
) -> Grammar:
    lines = (f"start: {start}", f"call: {' | '.join(calls)}", *rules, "")
    return Grammar(({"lark_grammar": "\n".join(lines)}, *parts))
