"""Tokens per second of streams that run together."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens/s.

    ``decode`` counts the tokens after the moment when the last stream got its first one, ``total``
    all tokens over the time from the requests on, prefill included.
    """

    decode: float
    total: float

    @classmethod
    def of(cls, started_s: float, streams: list[list[float]]) -> Rate:
        """From the times, in seconds, at which each stream got its tokens."""
        times = [t for stream in streams for t in stream]
        all_decode_s, end_s = last_first_token_s(streams), max(times)
        decoded = sum(t > all_decode_s for t in times)
        return cls(decoded / (end_s - all_decode_s), len(times) / (end_s - started_s))

    @classmethod
    def median(cls, rates: list[Rate]) -> Rate:
        return cls(
            statistics.median(rate.decode for rate in rates),
            statistics.median(rate.total for rate in rates),
        )


def last_first_token_s(streams: list[list[float]]) -> float:
    """When the last stream got its first token."""
    return max(stream[0] for stream in streams)


def random_prompts(count: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
    random = Random(seed)
    return [random.choices(range(vocab_size), k=length) for _ in range(count)]
