"""How far from the largest token kept tokens reach: in bounds from the summary, then exactly.

A step tests THRESHOLDS distances at once: its sums take hardly longer than one would.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sampling.sample_weights import share

THRESHOLDS = tl.constexpr(8)
# So many low bits of a sum hold a number of candidates.
COUNT_BITS = tl.constexpr(12)
COUNT_UNIT = tl.constexpr(1 << 12)
# A bound may be farther by this distance, some 0.2, than it could be.
CLOSE = tl.constexpr(3 << 20)
# Tokens of a span that might lie just beyond what top-p keeps.
GUESSED = tl.constexpr(4)


@triton.jit
def between(low, high):
    """Int32 ``[THRESHOLDS]`` that part ``low`` to ``high`` evenly, each below ``high``."""
    step = (high - low) // (THRESHOLDS + 1) + 1
    return tl.minimum(low + step * (tl.arange(0, THRESHOLDS) + 1), high) - 1


@triton.jit
def bound(nearest, masses, goal, counts, reach):
    """A distance, at most ``reach``, within which lies ``goal``: certainly so many tokens where
    ``counts``, else probably so much mass, the largest token's being 1.

    A span (fp32 ``masses``) holds its nearest token, and what GUESSED farther tokens cannot hold.
    """
    low = reach * 0
    goal *= tl.where(counts, 1.0, 1 + 2.0**-16)  # masses and their sums are rounded
    own = tl.where(counts, 1.0, share(nearest))
    masses = tl.where(counts, 0.0, masses)
    while reach - low > CLOSE:
        tests = between(low, reach)
        held = tl.maximum(own[None, :], masses[None, :] - (share(tests) * GUESSED)[:, None])
        held = tl.sum(tl.where(nearest[None, :] <= tests[:, None], held, 0.0), 1)
        is_enough = held >= goal
        reach = tl.min(tl.where(is_enough, tests, reach), 0)
        low = tl.max(tl.where(is_enough, low, tests + 1), 0)
    return reach


@triton.jit
def packed(values):
    """Int64 ``values`` to multiples of COUNT_UNIT, each with a count of one in its low bits."""
    return ((values + COUNT_UNIT // 2) & -COUNT_UNIT) + 1


@triton.jit
def smallest(far, packed_values, goal, low, high, count):
    """A distance that parts the nearest tokens, whose values reach ``goal``, from the others.

    ``far`` int32 are at least ``low``; ``count`` of them are at most ``high``, which comes back
    where they do not reach it. Between tokens that tie, it is the distance of both.
    """
    goal >>= COUNT_BITS
    below = count * 0
    while (low < high) & (count - below > 1):
        tests = between(low, high)
        is_held = far[None, :] <= tests[:, None]
        held = tl.sum(tl.where(is_held, packed_values[None, :], 0), 1)
        is_enough = (held >> COUNT_BITS) >= goal
        num_held = (held & (COUNT_UNIT - 1)).to(tl.int32)
        high = tl.min(tl.where(is_enough, tests, high), 0)
        count = tl.min(tl.where(is_enough, num_held, count), 0)
        low = tl.max(tl.where(is_enough, low, tests + 1), 0)
        below = tl.max(tl.where(is_enough, below, num_held), 0)
    return high
