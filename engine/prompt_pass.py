"""What a prompt's hidden states give beside KV: log-probabilities or an embedding.

Collected over the steps that compute the prompt. A preemption throws a pass away with the rest of
the request's state, and the prompt, computed again, makes a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qoq.engine.models.decoder import A, Codes, Decoder, take_rows
from qoq.scheduler.batch import Extras, TokenLogprobs
from qoq.scheduler.request import Pooling, SamplingParams

# Logits of a whole step would take hundreds of megabytes where the vocabulary is large.
_ROWS_AT_ONCE = 64
# Hidden states become integers of this many to one: 131072 of up to 2 ** 15 still fit 64 bits.
_UNITS = 2.0**30
_POOLED_AT_ONCE = 256


# Of logits, tokens, and how many likeliest ones: what can be had once the device is past the step.
Scores = Callable[[], Sequence[TokenLogprobs]]
Score = Callable[[Tensor, list[int], int], Scores]


class PromptPass:
    def __init__(self, prompt: list[int], sampling: SamplingParams) -> None:
        self._prompt = prompt
        self._sampling = sampling
        self._scores: list[Scores] = []
        self._pooled: Tensor | None = None

    def add(self, hidden: A, start: int, decoder: Decoder[A, Any], score: Score) -> None:
        """``hidden`` ``[M, hidden]`` belongs to the prompt's tokens from position ``start`` on."""
        if self._sampling.pooling is not None:
            self._pool(hidden)
        if self._sampling.prompt_logprobs is not None:
            targets = self._prompt[start + 1 : start + 1 + len(row_range(hidden))]
            for first in range(0, len(targets), _ROWS_AT_ONCE):
                part = targets[first : first + _ROWS_AT_ONCE]
                logits = decoder.logits(take_rows(hidden, slice(first, first + len(part))))
                self._scores.append(score(logits, part, self._sampling.prompt_logprobs))

    def extras(self) -> Extras:
        """Once every prompt token was added, and the device is past that step."""
        is_scored = self._sampling.prompt_logprobs is not None
        return Extras(
            prompt_logprobs=[row for rows in self._scores for row in rows()] if is_scored else None,
            embedding=None if self._pooled is None else self._embedding(self._pooled),
        )

    def _pool(self, hidden: A) -> None:
        """The sum is one of integers: it must not depend on how the prompt was cut into chunks."""
        num_rows = len(row_range(hidden))
        if self._sampling.pooling is Pooling.LAST:
            self._pooled = _summed_units(take_rows(hidden, slice(num_rows - 1, num_rows)))
            return
        for first in range(0, num_rows, _POOLED_AT_ONCE):
            units = _summed_units(take_rows(hidden, slice(first, first + _POOLED_AT_ONCE)))
            self._pooled = units if self._pooled is None else self._pooled + units

    def _embedding(self, pooled: Tensor) -> list[float]:
        """Of length 1. A mean is a sum of another length."""
        embedding: list[float] = torch.nn.functional.normalize(pooled.float(), dim=0).tolist()
        return embedding


def row_range(hidden: Tensor | Codes) -> range:
    return range(hidden.shape[0] if isinstance(hidden, Tensor) else hidden.codes.shape[0])


def _summed_units(hidden: Tensor | Codes) -> Tensor:
    """Of all rows, int64 ``[hidden]``."""
    values = hidden if isinstance(hidden, Tensor) else hidden.codes * hidden.scales
    return (values.double() * _UNITS).round().long().sum(0)
