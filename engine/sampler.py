"""Logits to token ids: penalties, bias, masks, temperature, top-k, top-p, min-p, one draw a row.

Every row is computed by itself or by row-wise operations, so a token does not depend on which other
rows are sampled with it. The draw inverts the cumulative distribution in vocabulary order at a
number that the request's seed and the token's position decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.engine.grammar import Matcher
from qoq.engine.grammar_mask import mask_by_grammar
from qoq.engine.logit_rules import apply_rules
from qoq.engine.random_uniform import uniform
from qoq.scheduler.request import SamplingParams


@dataclass(frozen=True, slots=True)
class SampleRow:
    """``token_ids`` are prompt and output so far; the new token's position is their number."""

    sampling: SamplingParams
    token_ids: Sequence[int]
    num_prompt_tokens: int
    matcher: Matcher | None = None


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    """One token id for each row of fp32 ``logits`` ``[R, V]``, which is overwritten."""
    for index, row in enumerate(rows):
        penalize(logits[index], row)
        apply_rules(logits[index], row.sampling, row.token_ids[row.num_prompt_tokens :])
    mask_by_grammar(logits, [row.matcher for row in rows])
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        chosen = _draw(logits[drawn], [rows[index] for index in drawn])
        for index, token in zip(drawn, chosen, strict=True):
            tokens[index] = token
    return tokens


def penalize(logits: Tensor, row: SampleRow) -> None:
    """Repetition over prompt and output (Keskar et al., 2019); the other two over the output."""
    sampling = row.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(row.token_ids, device=logits.device).unique()
        values = logits[seen]
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if sampling.presence_penalty or sampling.frequency_penalty:
        output = torch.tensor(
            row.token_ids[row.num_prompt_tokens :], dtype=torch.int64, device=logits.device
        )
        seen, counts = output.unique(return_counts=True)
        logits[seen] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def _draw(logits: Tensor, rows: list[SampleRow]) -> list[int]:
    temperatures = torch.tensor([row.sampling.temperature for row in rows])
    logits /= temperatures[:, None]
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
    for index, row in enumerate(rows):
        _filter(weights[index], row.sampling)
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    numbers = [uniform(row.sampling.seed, len(row.token_ids)) for row in rows]
    targets = torch.tensor(numbers, dtype=torch.float64) * cumulative[:, -1]
    # The first place whose cumulative weight exceeds the target; it has a weight of its own.
    chosen: list[int] = torch.searchsorted(cumulative, targets[:, None], right=True)[:, 0].tolist()
    return chosen


def _filter(weights: Tensor, sampling: SamplingParams) -> None:
    """Zero what top-k, then top-p of what is left, then min-p excludes. The largest weight is 1.

    Tokens that tie with the last one kept are kept.
    """
    threshold = sampling.min_p
    k = sampling.top_k if 0 < sampling.top_k < weights.numel() else None
    if sampling.top_p < 1.0:
        threshold = max(threshold, _top_p_threshold(weights, sampling.top_p, k))
    elif k is not None:
        threshold = max(threshold, float(weights.topk(k).values[-1]))
    if threshold > 0:
        weights.masked_fill_(weights < threshold, 0.0)


def _top_p_threshold(weights: Tensor, top_p: float, k: int | None) -> float:
    """The smallest weight in the smallest set of largest weights that holds ``top_p`` of the mass.

    Sorting a vocabulary is slow and the set is nearly always small: look at the largest few first.
    """
    total = None if k else weights.sum(dtype=torch.float64)
    size = k or min(256, weights.numel())
    while True:
        largest = weights.topk(size).values.double()
        mass = largest.cumsum(0)
        goal = top_p * (mass[-1] if total is None else total)
        place = int((mass < goal).sum())
        if place < size or size == weights.numel() or k:
            return float(largest[min(place, size - 1)])
        size = min(size * 8, weights.numel())
