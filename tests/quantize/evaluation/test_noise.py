"""Noise is drawn from its seed, changes about a tenth, and nothing but what it says."""

from __future__ import annotations

import difflib
from random import Random

import pytest

from qoq.quantize.evaluation.noise import NOISES, RATE, change_case, change_whitespace, typos

TEXT = "The Quick brown fox jumps over 12 lazy dogs, while nobody is watching closely. " * 50


@pytest.mark.parametrize("name", NOISES)
def test_the_seed_decides(name: str):
    noise = NOISES[name]
    assert noise(TEXT, Random(3)) == noise(TEXT, Random(3)) != noise(TEXT, Random(4))


def test_typos_change_some_long_words_by_one_letter():
    before, after = TEXT.split(), typos(TEXT, Random(0)).split()
    assert len(before) == len(after)
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert all(sum(map(str.isalpha, a)) >= 4 and abs(len(a) - len(b)) <= 1 for a, b in pairs)
    # A letter swapped, dropped, doubled or replaced leaves all others in order.
    for a, b in pairs:
        kept = sum(
            block.size for block in difflib.SequenceMatcher(None, a, b).get_matching_blocks()
        )
        assert kept >= len(a) - 1
    long_words = sum(len(word.strip(".,")) >= 4 for word in before)
    share = len(pairs) / long_words
    spread = (RATE * (1 - RATE) / long_words) ** 0.5
    # Swapping two equal letters or picking the same one again changes nothing: a little fewer.
    assert RATE * 0.85 - 4 * spread < share < RATE + 4 * spread


def test_case_changes_nothing_but_case():
    after = change_case(TEXT, Random(0))
    assert after != TEXT and after.lower() == TEXT.lower()
    assert any(word.isupper() and len(word) > 3 for word in after.split())


def test_whitespace_changes_nothing_but_whitespace():
    after = change_whitespace(TEXT, Random(0))
    assert "".join(after.split()) == "".join(TEXT.split())
    assert all(space in after for space in ("  ", "\t", "\n"))
    num_spaces = TEXT.count(" ")
    left = after.replace("  ", "").count(" ")
    spread = (num_spaces * RATE * (1 - RATE)) ** 0.5
    assert abs(num_spaces * (1 - RATE) - left) < 4 * spread


@pytest.mark.parametrize("name", NOISES)
def test_a_text_with_nothing_to_change_stays(name: str):
    assert NOISES[name]("123-456", Random(0)) == "123-456"
