"""How far kept tokens reach where many tokens might be kept: passes that narrow the place down.

Histograms of distances leave a few of their bins; the logits of a language model seldom need it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sampling.sample_candidates import (
    gather,
    load_candidates,
    load_distances,
    value,
)
from qoq.kernels.gpu.sampling.sample_threshold import packed, smallest
from qoq.kernels.gpu.sampling.sample_weights import weight

BINS = tl.constexpr(128)


@triton.jit
def _bin_bits(width):
    """So many low bits of a distance up to ``width`` leave no more than BINS bins."""
    bits = width * 0
    for bit in tl.static_range(7, 31):
        bits += ((width >> bit) > 0).to(tl.int32)
    return bits


@triton.jit
def _pick(values, place):
    return tl.sum(tl.where(tl.arange(0, values.shape[0]) == place, values, 0), 0)


@triton.jit
def search(
    logits,
    span_ptr,
    candidate_ptr,
    num_spans,
    top,
    temperature,
    goal,
    high,
    V,
    COUNTS: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """The smallest distance within which the listed spans hold ``goal``; ``high`` if none does."""
    low = high * 0
    count = num_spans * SPAN
    while (count > CANDIDATES) & (low < high):
        bits = _bin_bits(high - low)
        middle = low + ((high - low) >> 1)
        counts = tl.zeros((BINS,), tl.int32)
        nearer = tl.zeros((SPANS,), tl.int64)
        to_middle = tl.zeros((SPANS,), tl.int64)
        for first in range(0, num_spans, SPANS):
            _, far = load_distances(
                logits, span_ptr, first, num_spans, top, temperature, V, SPAN, SPANS
            )
            values = value(far, COUNTS)
            nearer += tl.sum(tl.where(far < low, values, 0), 1)
            to_middle += tl.sum(tl.where(far <= middle, values, 0), 1)
            is_between = (far >= low) & (far <= high)
            bins = tl.reshape(tl.where(is_between, (far - low) >> bits, 0), (SPANS * SPAN,))
            mask = tl.reshape(is_between, (SPANS * SPAN,))
            counts += tl.histogram(bins, BINS, mask=mask)
        # A bin's tokens add something between what tokens at its two ends would.
        start = low + (tl.arange(0, BINS).to(tl.int64) << bits)
        end = tl.minimum(start + (1 << bits) - 1, high).to(tl.int32)
        start = tl.minimum(start, high).to(tl.int32)
        most = tl.sum(nearer, 0) + tl.cumsum(counts * value(start, COUNTS), 0)
        least = tl.sum(nearer, 0) + tl.cumsum(counts * value(end, COUNTS), 0)
        if (not COUNTS) & (bits > 0):  # as far as an exponential rounds
            most += most >> 20
            least -= least >> 20
        bin = tl.arange(0, BINS)
        first_bin = tl.min(tl.where(most >= goal, bin, BINS - 1), 0)
        last_bin = tl.min(tl.where(least >= goal, bin, BINS - 1), 0)
        # Half of the distances are ruled out for certain, so this ends.
        is_enough = tl.sum(to_middle, 0) >= goal
        high_bound = tl.where(is_enough, middle, high)
        low = tl.maximum(_pick(start, first_bin), tl.where(is_enough, low, middle + 1))
        high = tl.minimum(_pick(end, last_bin), high_bound)
        low = tl.minimum(low, high)
        count = tl.sum(tl.where((end >= low) & (start <= high), counts, 0), 0)
    if low < high:
        count, within = gather(
            logits,
            span_ptr,
            candidate_ptr,
            num_spans,
            top,
            temperature,
            low,
            high,
            V,
            COUNTS,
            SPAN,
            SPANS,
            CANDIDATES,
        )
        far = load_candidates(candidate_ptr, count, CANDIDATES)
        values = value(far, COUNTS)
        goal -= within - tl.sum(values, 0)
        high = smallest(far, packed(values), goal, low, high, count)
    return high


@triton.jit
def mass_of_k(
    logits,
    span_ptr,
    num_spans,
    top,
    temperature,
    reach,
    top_k,
    V,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
):
    """Of exactly ``top_k`` tokens: what ties with the last of them is kept, but counts once."""
    masses = tl.zeros((SPANS,), tl.int64)
    counts = tl.zeros((SPANS,), tl.int32)
    for first in range(0, num_spans, SPANS):
        _, far = load_distances(
            logits, span_ptr, first, num_spans, top, temperature, V, SPAN, SPANS
        )
        masses += tl.sum(tl.where(far <= reach, weight(far), 0), 1)
        counts += tl.sum((far <= reach).to(tl.int32), 1)
    num_ties = tl.maximum(tl.sum(counts, 0) - top_k, 0)
    return tl.sum(masses, 0) - num_ties * weight(reach)


@triton.jit
def store_masses(
    logits,
    span_ptr,
    candidate_ptr,
    num_spans,
    top,
    temperature,
    reach,
    V,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
):
    """Of each listed span, where candidates were: what its kept tokens weigh."""
    tl.debug_barrier()
    for first in range(0, num_spans, SPANS):
        _, far = load_distances(
            logits, span_ptr, first, num_spans, top, temperature, V, SPAN, SPANS
        )
        kept = tl.sum(tl.where(far <= reach, weight(far), 0), 1)
        index = first + tl.arange(0, SPANS)
        tl.store(candidate_ptr + index, kept, mask=index < num_spans)
    tl.debug_barrier()
