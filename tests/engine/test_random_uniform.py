import itertools

import pytest

from qoq.engine.random_uniform import philox, uniform

# Random123's kat_vectors, philox4x32-10: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_gives_the_published_numbers(counter: str, key: str, result: str):
    """Any wrong constant, order of words or number of rounds changes every bit."""
    low, high = words(key)
    assert philox(words(counter), high << 32 | low) == words(result)


def test_is_made_of_the_first_two_words():
    assert uniform(0, 0) == (0x6627E8D5 << 21 | 0xE169C58D >> 11) / 2**53


def test_is_never_one(monkeypatch: pytest.MonkeyPatch):
    """A number of 1 would point past the end of the distribution."""
    largest = (0xFFFFFFFF,) * 4
    monkeypatch.setattr("qoq.engine.random_uniform.philox", lambda counter, seed: largest)
    assert uniform(0, 0) == 1 - 2**-53


def test_all_bits_of_seed_and_position_count():
    """Seeds that differ in their upper half only, or positions, must not share their numbers."""
    seeds = [0, 1, 1 << 31, 1 << 32, 1 << 63]
    numbers = {uniform(seed, position) for seed, position in itertools.product(seeds, range(100))}
    assert len(numbers) == 500


def test_negative_and_long_seeds_count_by_their_low_64_bits():
    assert uniform(-1, 7) == uniform(2**64 - 1, 7) == uniform(2**65 - 1, 7)


def test_is_uniform_over_positions_and_over_seeds():
    """Chi-square of 64 cells with 63 degrees of freedom: above 118 once in 30 000."""
    for numbers in (
        [uniform(seed=11, position=i) for i in range(8192)],
        [uniform(seed=i, position=11) for i in range(8192)],
    ):
        counts = [0] * 64
        for number in numbers:
            counts[int(number * 64)] += 1
        assert sum((count - 128) ** 2 / 128 for count in counts) < 118
