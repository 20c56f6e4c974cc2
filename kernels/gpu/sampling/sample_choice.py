"""From a row's summary to its token: a draw in vocabulary order, or the first largest logit."""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sampling.sample_candidates import gather, load_candidates, value
from qoq.kernels.gpu.sampling.sample_order import is_filtered
from qoq.kernels.gpu.sampling.sample_random import random_bits
from qoq.kernels.gpu.sampling.sample_search import mass_of_k, search, store_masses
from qoq.kernels.gpu.sampling.sample_threshold import bound, packed, smallest
from qoq.kernels.gpu.sampling.sample_weights import (
    FARTHEST,
    NOTHING,
    UNIT,
    distance,
    exponential,
    load_scaled,
    weight,
)

# Spans that are read at a time where a row is filtered.
SPANS = 32
# So many spans are searched for candidates without knowing whether those are few enough.
MAX_HOPEFUL = tl.constexpr(1280)
# Most often candidates are no more, and choosing from so many takes a fourth of the time.
FEW = tl.constexpr(512)
# All tokens farther than this weigh less than the 2^-24 that top-p leaves out at least.
FARTHEST_OF_P = tl.constexpr(31 << 24)


@triton.jit
def _draw(masses, bits, SIZE: tl.constexpr):
    """The first place whose cumulative mass exceeds that share of all, and how far it does."""
    total = tl.sum(masses, 0)
    target = (bits.to(tl.float64) * 2.0**-53 * total.to(tl.float64)).to(tl.int64)
    return _find(masses, tl.minimum(target, total - 1), SIZE)


@triton.jit
def _find(masses, target, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    place = tl.min(tl.where(tl.cumsum(masses, 0) > target, index, SIZE), 0)
    return place, target - tl.sum(tl.where(index < place, masses, 0), 0)


@triton.jit
def _draw_in_span(logits, span, target, top, temperature, reach, V, SPAN: tl.constexpr):
    column = tl.arange(0, SPAN)
    token = span * SPAN + column
    far = distance(load_scaled(logits + token, token < V, temperature), top)
    place, _ = _find(tl.where(far <= reach, weight(far), 0), target, SPAN)
    # The sum of a span is rounded otherwise than its tokens: the draw may end past them all.
    nearest = tl.min(tl.where(far == tl.min(far, 0), column, SPAN), 0)
    return span * SPAN + tl.where(place < SPAN, place, nearest)


@triton.jit
def _draw_candidate(
    candidate_ptr, count, reach, limit, top_k, top_p, mass, has_k, bits, CANDIDATES: tl.constexpr
):
    far = load_candidates(candidate_ptr, count, CANDIDATES)
    weights = weight(far)
    if has_k:
        goal = top_k.to(tl.int64) * UNIT
        reach = smallest(far, packed(value(far, True)), goal, reach * 0, reach, count)
        # What ties with the last of them is kept, but counts once.
        count = tl.sum((far <= reach).to(tl.int32), 0)
        num_ties = tl.maximum(count - top_k, 0)
        mass = tl.sum(tl.where(far <= reach, weights, 0), 0) - num_ties * weight(reach)
    if top_p < 1:
        goal = (mass * top_p.to(tl.float64)).to(tl.int64)
        reach = smallest(far, packed(weights), goal, reach * 0, reach, count)
    reach = tl.minimum(reach, limit)
    place, _ = _draw(tl.where(far <= reach, weights, 0), bits, CANDIDATES)
    return tl.load(candidate_ptr + place).to(tl.int32)


@triton.jit
def _draw_by_search(
    logits,
    span_ptr,
    candidate_ptr,
    num_spans,
    top,
    temperature,
    reach,
    limit,
    top_k,
    top_p,
    mass,
    has_k,
    bits,
    V,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    if has_k:
        reach = search(
            logits,
            span_ptr,
            candidate_ptr,
            num_spans,
            top,
            temperature,
            top_k.to(tl.int64) * UNIT,
            reach,
            V,
            True,
            SPAN,
            SPANS,
            CANDIDATES,
        )
        mass = mass_of_k(
            logits, span_ptr, num_spans, top, temperature, reach, top_k, V, SPAN, SPANS
        )
    if top_p < 1:
        reach = search(
            logits,
            span_ptr,
            candidate_ptr,
            num_spans,
            top,
            temperature,
            (mass * top_p.to(tl.float64)).to(tl.int64),
            reach,
            V,
            False,
            SPAN,
            SPANS,
            CANDIDATES,
        )
    reach = tl.minimum(reach, limit)
    store_masses(
        logits, span_ptr, candidate_ptr, num_spans, top, temperature, reach, V, SPAN, SPANS
    )
    index = tl.arange(0, BLOCK)
    masses = tl.load(candidate_ptr + index, mask=index < num_spans, other=0)
    place, target = _draw(masses, bits, BLOCK)
    span = tl.load(span_ptr + place)
    return _draw_in_span(logits, span, target, top, temperature, reach, V, SPAN)


@triton.jit
def _list_spans(span_ptr, nearest, reach, BLOCK: tl.constexpr):
    """Store which spans have a token up to ``reach`` away; their number."""
    is_listed = (nearest <= reach).to(tl.int32)
    place = tl.cumsum(is_listed, 0) - 1
    tl.store(span_ptr + place, tl.arange(0, BLOCK), mask=is_listed > 0)
    return tl.sum(is_listed, 0)


@triton.jit
def _draw_filtered(
    logits,
    span_ptr,
    candidate_ptr,
    num_spans,
    nearest,
    masses,
    top,
    temperature,
    top_k,
    top_p,
    min_p,
    bits,
    V,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    limit = tl.minimum(-tl.log(tl.maximum(min_p, 1e-37)) * (1 << 24), (126 << 24) * 1.0)
    limit = tl.where(min_p > 0, limit.to(tl.int32), FARTHEST - 1)
    mass = tl.sum((masses * UNIT).to(tl.int64), 0)
    has_k = (top_k > 0) & (top_k < V)
    # Top-p is of the mass of all that top-k leaves, also of what min-p excludes then.
    farthest = tl.where(has_k, FARTHEST - 1, tl.minimum(limit, FARTHEST_OF_P))
    farthest = tl.where(top_p < 1, farthest, limit)
    reach = farthest
    goal = tl.where(has_k, top_k.to(tl.float32), mass.to(tl.float32) * (1 / UNIT) * top_p)
    if has_k | (top_p < 1):
        reach = bound(nearest, masses, goal, has_k, reach)
    is_enough = has_k | (reach >= farthest)
    num_listed = _list_spans(span_ptr, nearest, reach, BLOCK)
    count = tl.full((), CANDIDATES + 1, tl.int32)
    if num_listed <= MAX_HOPEFUL:
        count, within = gather(
            logits,
            span_ptr,
            candidate_ptr,
            num_listed,
            top,
            temperature,
            reach * 0,
            reach,
            V,
            False,
            SPAN,
            SPANS,
            CANDIDATES,
        )
        is_enough |= within >= (mass * top_p.to(tl.float64)).to(tl.int64)
    if is_enough & (count <= CANDIDATES):
        if count <= FEW:
            token = _draw_candidate(
                candidate_ptr, count, reach, limit, top_k, top_p, mass, has_k, bits, FEW
            )
        else:
            token = _draw_candidate(
                candidate_ptr, count, reach, limit, top_k, top_p, mass, has_k, bits, CANDIDATES
            )
    else:
        tl.debug_barrier()
        if not is_enough:
            reach = farthest
            num_listed = num_spans
            span = tl.arange(0, BLOCK)
            tl.store(span_ptr + span, span, mask=span < num_spans)
            tl.debug_barrier()
        token = _draw_by_search(
            logits,
            span_ptr,
            candidate_ptr,
            num_listed,
            top,
            temperature,
            reach,
            limit,
            top_k,
            top_p,
            mass,
            has_k,
            bits,
            V,
            SPAN,
            SPANS,
            CANDIDATES,
            BLOCK,
        )
    return token


@triton.jit
def choose(
    logits,
    temperature,
    top_k,
    top_p,
    min_p,
    seed,
    position,
    top_ptr,
    sum_ptr,
    span_ptr,
    candidate_ptr,
    V,
    num_spans,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The token of one row; pointers are the row's own."""
    index = tl.arange(0, BLOCK)
    in_row = index < num_spans
    tops = tl.load(top_ptr + index, mask=in_row, other=float("-inf"), cache_modifier=".cg")
    top = tl.max(tops, 0)
    if (temperature > 0) & (top * temperature > 0.5 * NOTHING):
        sums = tl.load(sum_ptr + index, mask=in_row, other=0.0, cache_modifier=".cg")
        masses = exponential(tops - top) * sums
        bits = random_bits(seed, position)
        if is_filtered(temperature, top_k, top_p, min_p, V):
            token = _draw_filtered(
                logits,
                span_ptr,
                candidate_ptr,
                num_spans,
                distance(tops, top),
                masses,
                top,
                temperature,
                top_k,
                top_p,
                min_p,
                bits,
                V,
                SPAN,
                SPANS,
                CANDIDATES,
                BLOCK,
            )
        else:
            span, target = _draw((masses * UNIT).to(tl.int64), bits, BLOCK)
            token = _draw_in_span(logits, span, target, top, temperature, FARTHEST, V, SPAN)
    else:
        span = tl.min(tl.where(tops == top, index, BLOCK), 0)
        column = tl.arange(0, SPAN)
        tokens = span * SPAN + column
        x = load_scaled(logits + tokens, tokens < V, tl.where(temperature > 0, temperature, 1.0))
        token = span * SPAN + tl.min(tl.where(x == top, column, SPAN), 0)
    # Whatever an infinite logit did to the sums.
    return tl.minimum(token, V - 1)
