"""What careless writers do to a text, drawn from a seed: typos, case, whitespace."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

# Share of words (of spaces, for whitespace) that change.
RATE = 0.1
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBORS = {
    key: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in _ROWS
    for place, key in enumerate(row)
}

Noise = Callable[[str, Random], str]


def typos(text: str, random: Random) -> str:
    """In words of four letters and more: one swapped, left out, doubled or hit beside its key."""
    return _change(r"[A-Za-z]{4,}", text, random, _mistype)


def change_case(text: str, random: Random) -> str:
    """Words in capitals, in small letters, or with the case of the first letter changed."""
    return _change(r"[A-Za-z]+", text, random, _recase)


def change_whitespace(text: str, random: Random) -> str:
    """Spaces left out, doubled, or in their place a tab or a line break."""
    return _change(r" ", text, random, lambda _, random: random.choice(("", "  ", "\t", "\n")))


NOISES: dict[str, Noise] = {
    "typos": typos,
    "case": change_case,
    "whitespace": change_whitespace,
}


def _change(pattern: str, text: str, random: Random, change: Callable[[str, Random], str]) -> str:
    def maybe(match: re.Match[str]) -> str:
        return change(match[0], random) if random.random() < RATE else match[0]

    return re.sub(pattern, maybe, text)


def _mistype(word: str, random: Random) -> str:
    place = random.randrange(len(word) - 1)
    before, letter, after = word[:place], word[place], word[place + 1 :]
    match random.randrange(4):
        case 0:
            return before + after[0] + letter + after[1:]
        case 1:
            return before + after
        case 2:
            return before + letter + letter + after
    return before + random.choice(_NEIGHBORS[letter.lower()]) + after


def _recase(word: str, random: Random) -> str:
    return random.choice((word.upper(), word.lower(), word[0].swapcase() + word[1:]))
