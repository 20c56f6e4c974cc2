"""Partial softmax sums, and how two of them become one.

A partial is the maximum score ``top`` (a power of two's exponent), and sums of values weighted by
``2 ** (score - top)``. Multiply and add are spelled out: where they were left to the compiler, two
kernels could round differently. A partial folded into nothing keeps its bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
# Codes enter products as code * 2 ** -24.
CODE_UNIT = tl.constexpr(2.0**24)
# Stands for minus infinity where a difference of two must stay a number.
MASKED = tl.constexpr(-1e30)


@triton.jit
def weigh(top, top_2):
    """The maximum of both, and the factors of either's sums under it."""
    both = tl.maximum(top, top_2)
    return both, tl.exp2(top - both), tl.exp2(top_2 - both)


@triton.jit
def fold(x, keep, x_2, gain):
    """Sums of two partials under their common maximum; all of one shape."""
    return tl.fma(x, keep, x_2 * gain)
