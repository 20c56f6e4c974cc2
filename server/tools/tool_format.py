"""How a model writes calls of tools, known by what its chat template says of them."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from qoq.server.structured.grammar import Grammar
from qoq.server.tools import hermes, llama3, mistral, qwen3_coder
from qoq.server.tools.calls_grammar import Layout, Spell, json_calls, qwen3_coder_calls
from qoq.server.tools.reader import Reader, Script
from qoq.server.tools.tool import Tool


class CallsGrammar(Protocol):
    def __call__(self, tools: Sequence[Tool], *, spell: Spell, is_parallel: bool) -> Grammar: ...


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """``signs``: texts that a template of this format has, all of them.

    ``markers`` are read, so they stay in the text even where they are special tokens.
    """

    name: str
    signs: tuple[str, ...]
    markers: tuple[str, ...]
    read: Callable[[Reader, Sequence[Tool]], Script[None]]
    grammar: CallsGrammar
    new_call_id: Callable[[], str]


def find_tool_format(chat_template: str) -> ToolFormat | None:
    """None where the template says nothing of tools, or nothing that we know."""
    if "tools" not in chat_template:
        return None
    matching = (f for f in _FORMATS if all(sign in chat_template for sign in f.signs))
    return next(matching, None)


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _new_mistral_id() -> str:
    """Mistral's templates refuse an id that is not nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def _json(layout: Layout) -> CallsGrammar:
    return partial(json_calls, layout=layout)


_HERMES = Layout(
    before_name=f'{hermes.OPEN}\n{{"name": "',
    after_name='", "arguments": ',
    after_call=f"}}\n{hermes.CLOSE}",
    separator="\n",
)
_LLAMA3 = Layout(
    before_name='{"name": "', after_name='", "parameters": ', after_call="}", separator="; "
)
_MISTRAL_LIST = Layout(
    opening=f"{mistral.OPEN}[",
    before_name='{"name": "',
    after_name='", "arguments": ',
    after_call="}",
    separator=", ",
    closing="]",
)
_MISTRAL_NAMED = Layout(before_name=mistral.OPEN, after_name=mistral.ARGS, separator="")

# From the most to the least telling signs: Qwen3-Coder's template has those of Hermes too.
_FORMATS = (
    ToolFormat(
        name="qwen3_coder",
        signs=(qwen3_coder.FUNCTION, qwen3_coder.PARAMETER),
        markers=(qwen3_coder.CALL, qwen3_coder.CALL_END),
        read=qwen3_coder.read,
        grammar=qwen3_coder_calls,
        new_call_id=_new_call_id,
    ),
    ToolFormat(
        name="hermes",
        signs=(hermes.OPEN,),
        markers=(hermes.OPEN, hermes.CLOSE),
        read=hermes.read,
        grammar=_json(_HERMES),
        new_call_id=_new_call_id,
    ),
    ToolFormat(
        name="mistral_named",
        signs=(mistral.OPEN, mistral.ARGS),
        markers=(mistral.OPEN, mistral.ARGS, mistral.CALL_ID),
        read=mistral.read,
        grammar=_json(_MISTRAL_NAMED),
        new_call_id=_new_mistral_id,
    ),
    ToolFormat(
        name="mistral",
        signs=(mistral.OPEN,),
        markers=(mistral.OPEN, mistral.ARGS, mistral.CALL_ID),
        read=mistral.read,
        grammar=_json(_MISTRAL_LIST),
        new_call_id=_new_mistral_id,
    ),
    ToolFormat(
        name="llama3_json",
        signs=('"parameters": ',),
        markers=(llama3.TAG,),
        read=llama3.read,
        grammar=_json(_LLAMA3),
        new_call_id=_new_call_id,
    ),
)
