"""A grammar as text for the engine: llguidance's JSON, a list of parts of which the first starts.

Whitespace between the parts of JSON is allowed and bounded, so that no model can spend its tokens
on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

_WHITESPACE = r"[\x20\n\t]{0,32}"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Grammar:
    """``parts[0]`` is where it starts; it may refer to the ``name`` of another one as ``@name``."""

    parts: tuple[Json, ...]

    @property
    def text(self) -> str:
        return json.dumps({"grammars": self.parts}, ensure_ascii=False)

    def after(self, prefix: str, rules: str) -> Grammar:
        """What the Lark expression ``prefix`` matches by its ``rules``, and then this."""
        return self._inside(f"start: {prefix} @answer\n{rules}", "answer")

    def otherwise(self, other: Grammar) -> Grammar:
        """This or the other."""
        both = self._inside("start: @first | @second\n", "first")
        return Grammar((*both.parts, {**other.parts[0], "name": "second"}, *other.parts[1:]))

    def _inside(self, lark: str, name: str) -> Grammar:
        return Grammar(({"lark_grammar": lark}, {**self.parts[0], "name": name}, *self.parts[1:]))


def of_schema(schema: object, name: str = "schema", *, is_lenient: bool = False) -> Json:
    """The part for JSON by ``schema``. A lenient one ignores keywords that are not supported."""
    options = {"whitespace_pattern": _WHITESPACE, "lenient": is_lenient}
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": options}
    return {"name": name, "json_schema": schema}


def of_regex(regex: str) -> Json:
    part: Json = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]
    return part


def of_choice(choices: Sequence[str]) -> Json:
    return of_lark("start: " + " | ".join(map(literal, choices)))


def of_lark(text: str) -> Json:
    """Raises ValueError. Also takes GBNF, which has ``::=`` where Lark has a colon."""
    try:
        return {"lark_grammar": any_to_lark(text)}
    except Exception as error:  # the converter raises nothing narrower
        raise ValueError(f"it is no grammar: {error}") from error


def literal(text: str) -> str:
    """A Lark string that matches ``text`` and nothing else."""
    return json.dumps(text, ensure_ascii=False)
