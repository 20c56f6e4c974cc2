"""What the grammars of calls and of reasoning take, text by text; special tokens as their ids."""

from __future__ import annotations

import json

import pytest
import tokenizers
from tokenizers import AddedToken

from qoq.engine.grammar import Grammars
from qoq.server.structured.grammar import Grammar, of_choice
from qoq.server.tokenizer import Tokenizer
from qoq.server.tools.dialect import Dialect
from qoq.server.tools.reasoning import Thinking, grammar_after
from qoq.server.tools.tool import Tool
from qoq.server.tools.tool_format import find_tool_format

from ...engine.talking_model import EOS, byte_tokenizer
from .test_tool_format import CODER, HERMES, TEMPLATES, TOOLS

PLACE = Tool(
    "place",
    {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/n"}, "note": {"type": "string"}},
        "required": ["x"],
        "$defs": {"n": {"type": "integer"}},
    },
)


def tokenizer_with(*specials: str) -> Tokenizer:
    core: tokenizers.Tokenizer = byte_tokenizer()
    core.add_special_tokens([AddedToken(text, special=True) for text in specials])
    return Tokenizer(core)


def accepts(grammar: Grammar, text: str, tokenizer: Tokenizer) -> bool:
    grammars = Grammars(tokenizer.to_json(), vocab_size=272, eos_token_ids=[EOS])
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    matcher = grammars.matcher(grammar.text, [*token_ids, EOS])
    return not matcher.has_failed


def calls(name: str, tokenizer: Tokenizer, *, is_parallel: bool = True) -> Grammar:
    found = find_tool_format(TEMPLATES[name])
    assert found is not None
    return found.grammar((*TOOLS, PLACE), spell=Dialect(tokenizer).spell, is_parallel=is_parallel)


SPECIALS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")
MISTRAL = '[TOOL_CALLS][{"name": "get-time", "arguments": {}}'
TAKEN = [
    ("hermes", HERMES),
    ("hermes", f"{HERMES}\n{HERMES}"),
    ("llama3_json", '{"name": "get-time", "parameters": {}}'),
    (
        "llama3_json",
        '{"name": "größe", "parameters": {"a": 1}}; {"name": "get-time", "parameters": {}}',
    ),
    ("mistral", MISTRAL + "]"),
    ("mistral", MISTRAL + ', {"name": "place", "arguments": {"x": 1}}]'),
    ("mistral_named", '[TOOL_CALLS]get-time[ARGS]{}[TOOL_CALLS]place[ARGS]{"x": 1}'),
    ("qwen3_coder", CODER.replace("\n 3 \n", "\n3\n")),
    ("qwen3_coder", "<tool_call>\n<function=get-time>\n</function>\n</tool_call>"),
    (
        "qwen3_coder",
        "<tool_call>\n<function=place>\n<parameter=x>\n-5\n</parameter>\n"
        "<parameter=note>\n</x>\n\n</parameter>\n</function>\n</tool_call>",
    ),
]
REFUSED = [
    ("hermes", f"Sure. {HERMES}"),
    ("hermes", HERMES.replace("weather", "whether")),
    ("hermes", HERMES.replace('"days": 3', '"days": "3"')),
    ("llama3_json", '{"name": "place", "parameters": {}}'),
    ("mistral", MISTRAL),
    ("qwen3_coder", "<tool_call>\n<function=place>\n</function>\n</tool_call>"),
    ("qwen3_coder", CODER),
]


@pytest.mark.parametrize("specials", [(), SPECIALS])
@pytest.mark.parametrize(("name", "text"), TAKEN)
def test_calls_are_taken(name: str, text: str, specials: tuple[str, ...]) -> None:
    tokenizer = tokenizer_with(*specials)
    assert accepts(calls(name, tokenizer), text, tokenizer)


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_what_is_no_valid_call_is_refused(name: str, text: str) -> None:
    tokenizer = tokenizer_with()
    assert not accepts(calls(name, tokenizer), text, tokenizer)


def test_a_second_call_needs_parallel_calls() -> None:
    tokenizer = tokenizer_with()
    assert not accepts(
        calls("hermes", tokenizer, is_parallel=False), f"{HERMES}\n{HERMES}", tokenizer
    )


@pytest.mark.parametrize("is_strict", [False, True])
def test_only_a_strict_tool_needs_every_keyword_to_be_supported(is_strict: bool) -> None:
    tool = Tool("f", {"type": "object", "not": {"required": ["x"]}}, is_strict=is_strict)
    found, tokenizer = find_tool_format(TEMPLATES["hermes"]), tokenizer_with()
    assert found is not None
    grammar = found.grammar([tool], spell=json.dumps, is_parallel=False)
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    if is_strict:
        with pytest.raises(ValueError, match="not"):
            accepts(grammar, text, tokenizer)
    else:
        assert accepts(grammar, text, tokenizer)


@pytest.mark.parametrize("specials", [(), ("<think>", "</think>")])
@pytest.mark.parametrize(
    ("thinking", "text", "is_taken"),
    [
        (Thinking.BEGUN, "Hm <b>\n</think>\n\nyes", True),
        (Thinking.BEGUN, "yes", False),
        (Thinking.BEGUN, "Hm</think>maybe", False),
        (Thinking.MAYBE, "<think>Hm</think>no", True),
        (Thinking.MAYBE, "no", True),
        (Thinking.MAYBE, "Hm</think>no", False),
        (Thinking.NEVER, "no", True),
        (Thinking.NEVER, "<think>Hm</think>no", False),
    ],
)
def test_reasoning_is_free_and_then_the_grammar_holds(
    thinking: Thinking, text: str, is_taken: bool, specials: tuple[str, ...]
) -> None:
    tokenizer = tokenizer_with(*specials)
    grammar = Grammar((of_choice(["yes", "no"]),))
    whole = grammar_after(thinking, grammar, Dialect(tokenizer).spell)
    assert accepts(whole, text, tokenizer) == is_taken
