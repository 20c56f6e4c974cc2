"""Reasoning between ``<think>`` and ``</think>`` before the answer (Qwen3, DeepSeek-R1)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from qoq.server.structured.grammar import Grammar
from qoq.server.tools.parts import Content, Reasoning
from qoq.server.tools.reader import Reader, Script, read_text

OPEN, CLOSE = "<think>", "</think>"


class Thinking(Enum):
    """NEVER: all text is the answer. BEGUN: the prompt ends in ``<think>``. MAYBE: it may come."""

    NEVER = "never"
    BEGUN = "begun"
    MAYBE = "maybe"


def find_thinking(chat_template: str, prompt: str) -> Thinking:
    """What the prompt that the template made leaves open."""
    if CLOSE not in chat_template:
        return Thinking.NEVER
    end = prompt.rstrip()
    if end.endswith(OPEN):
        return Thinking.BEGUN
    return Thinking.NEVER if end.endswith(CLOSE) else Thinking.MAYBE


def read_after(
    thinking: Thinking, answer: Callable[[Reader], Script[None]]
) -> Callable[[Reader], Script[None]]:
    """Reads the reasoning, and the rest as ``answer`` does."""

    def read(reader: Reader) -> Script[None]:
        is_thinking = thinking is Thinking.BEGUN
        if thinking is Thinking.MAYBE:
            is_thinking = yield from _skip_opening(reader)
        if is_thinking:
            yield from read_text(reader, Reasoning, CLOSE, trims_start=True, trims_end=True)
            yield from reader.skip_space()
        yield from answer(reader)

    return read


def grammar_after(thinking: Thinking, grammar: Grammar, spell: Callable[[str], str]) -> Grammar:
    """Reasoning is free; ``grammar`` holds for what follows it."""
    if thinking is Thinking.NEVER:
        return grammar
    close = spell(CLOSE)
    # A regex is greedy; only a special token, which is no text, ends it by itself.
    thought = f"[suffix={close}]: /(.|\\n)*/" if close.startswith('"') else f": /(.|\\n)*/ {close}"
    rules = f"thinking: thought /\\s*/\nthought{thought}\n"
    prefix = "thinking" if thinking is Thinking.BEGUN else f"({spell(OPEN)} thinking)?"
    return grammar.after(prefix, rules)


def read_content(reader: Reader) -> Script[None]:
    yield from read_text(reader, Content, trims_start=False)


def _skip_opening(reader: Reader) -> Script[bool]:
    """Whether the text begins with ``<think>``, which is then taken, or else nothing is."""
    while True:
        text = reader.text.lstrip()
        if text.startswith(OPEN):
            reader.text = text.removeprefix(OPEN)
            return True
        if not OPEN.startswith(text) or reader.is_complete:
            return False
        yield None
