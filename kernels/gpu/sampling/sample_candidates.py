"""Tokens near the largest one, taken from the spans that may have some, in vocabulary order."""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sampling.sample_weights import (
    FARTHEST,
    UNIT,
    distance,
    load_scaled,
    weight,
)

# Few enough to be held in the registers of one program.
CANDIDATES = 2048


@triton.jit
def load_distances(
    logits,
    span_ptr,
    first,
    num_spans,
    top,
    temperature,
    V,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
):
    """Tokens int32 ``[SPANS, SPAN]`` of some listed spans and distances; FARTHEST where none is."""
    place = first + tl.arange(0, SPANS)
    is_listed = place < num_spans
    span = tl.load(span_ptr + place, mask=is_listed, other=0)
    token = span[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    x = load_scaled(logits + token, is_listed[:, None] & (token < V), temperature)
    return token, distance(x, top)


@triton.jit
def value(distance, COUNTS: tl.constexpr):
    """What a token adds: UNIT for itself, or its weight."""
    if COUNTS:
        return (distance < FARTHEST).to(tl.int64) * UNIT
    else:
        return weight(distance)


@triton.jit
def gather(
    logits,
    span_ptr,
    candidate_ptr,
    num_spans,
    top,
    temperature,
    low,
    high,
    V,
    COUNTS: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """Store tokens from ``low`` to ``high`` away; their number, and what all up to there add up to.

    A distance is in the high half of an int64, a token id in the low one. Past CANDIDATES, tokens
    are counted only.
    """
    tl.debug_barrier()
    count = num_spans * 0
    within = tl.zeros((SPANS,), tl.int64)
    for first in range(0, num_spans, SPANS):
        token, far = load_distances(
            logits, span_ptr, first, num_spans, top, temperature, V, SPAN, SPANS
        )
        within += tl.sum(tl.where(far <= high, value(far, COUNTS), 0), 1)
        is_between = (far >= low) & (far <= high)
        inside = tl.cumsum(is_between.to(tl.int32), 1)
        of_span = tl.max(inside, 1)
        behind = tl.cumsum(of_span, 0)
        place = count + (behind - of_span)[:, None] + inside - 1
        is_stored = is_between & (place < CANDIDATES)
        tl.store(candidate_ptr + place, (far.to(tl.int64) << 32) | token, mask=is_stored)
        count += tl.max(behind, 0)
    tl.debug_barrier()
    return count, tl.sum(within, 0)


@triton.jit
def load_candidates(candidate_ptr, count, CANDIDATES: tl.constexpr):
    """Distances of those that ``gather`` stored, FARTHEST behind them."""
    place = tl.arange(0, CANDIDATES)
    candidates = tl.load(candidate_ptr + place, mask=place < count, other=0)
    return tl.where(place < count, (candidates >> 32).to(tl.int32), FARTHEST)
