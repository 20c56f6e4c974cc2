"""How far from the largest token kept tokens reach: in bounds from the summary, then exactly."""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sample_weights import UNIT, weight

# So many low bits of a sum hold a number of candidates.
COUNT_BITS = tl.constexpr(12)
COUNT_UNIT = tl.constexpr(1 << 12)


@triton.jit
def bound(nearest, masses, goal, counts, reach, SPAN: tl.constexpr):
    """A distance, at most ``reach``, within which certainly lies ``goal``: so many tokens, in UNIT,
    where ``counts``, else so much mass.

    A span holds its nearest token, and what farther tokens of the same span cannot hold.
    """
    low = reach * 0
    goal += tl.where(counts, 0, goal >> 16)  # masses of spans are rounded
    for _ in tl.static_range(12):
        middle = low + ((reach - low) >> 1)
        held = tl.maximum(weight(nearest), masses - SPAN * weight(middle))
        held = tl.where(nearest <= middle, tl.where(counts, UNIT, held), 0)
        is_enough = tl.sum(held, 0) >= goal
        reach = tl.where(is_enough, middle, reach)
        low = tl.where(is_enough, low, middle + 1)
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
        middle = low + ((high - low) >> 1)
        held = tl.sum(tl.where(far <= middle, packed_values, 0), 0)
        is_enough = (held >> COUNT_BITS) >= goal
        num_held = (held & (COUNT_UNIT - 1)).to(tl.int32)
        high = tl.where(is_enough, middle, high)
        count = tl.where(is_enough, num_held, count)
        low = tl.where(is_enough, low, middle + 1)
        below = tl.where(is_enough, below, num_held)
    return high
