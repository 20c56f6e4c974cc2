"""Masks on logits: the bits, the row, and the row that nothing else leaves anything of."""

from __future__ import annotations

import torch
from llguidance import LLMatcher

from qoq.engine.grammar import Grammars
from qoq.engine.grammar_mask import mask_by_grammar

from .talking_model import EOS, byte_tokenizer

GRAMMARS = Grammars(byte_tokenizer().to_str(), vocab_size=272, eos_token_ids=[EOS])
INF = float("inf")


def masked(logits: torch.Tensor, *regexes: str | None) -> torch.Tensor:
    matchers = [
        regex and GRAMMARS.matcher(LLMatcher.grammar_from_regex(regex)) for regex in regexes
    ]
    mask_by_grammar(logits, matchers)
    return logits


def kept(row: torch.Tensor) -> set[int]:
    return set((row > -INF).nonzero().flatten().tolist())


def test_each_row_keeps_what_its_own_grammar_allows() -> None:
    logits = torch.randn(4, 272, generator=torch.Generator().manual_seed(0))
    rows = masked(logits.clone(), "[a-c]x", None, "(\x00|\x7f|ÿ)?", "[^b]")
    assert kept(rows[0]) == set(b"abc")
    assert torch.equal(rows[1], logits[1])
    assert kept(rows[2]) == {0x00, 0x7F, "ÿ".encode()[0], EOS}
    assert not kept(rows[3]) & {*b"b", EOS, *range(258, 272)}
    for place in (0, 2, 3):
        index = list(kept(rows[place]))
        assert torch.equal(rows[place][index], logits[place][index])


def test_a_row_with_nothing_left_keeps_all_that_the_grammar_allows() -> None:
    logits = torch.full((2, 272), -INF)
    logits[:, 0x7A] = 1.0
    rows = masked(logits, "[a-c]", "z")
    assert rows[0].isfinite().nonzero().flatten().tolist() == [*b"abc"]
    assert rows[0].unique().tolist() == [-INF, 0.0]
    assert rows[1][0x7A] == 1.0 and kept(rows[1]) == {0x7A}
