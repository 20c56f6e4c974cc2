"""What sampler kernels share: scaled logits, their distance from the largest, and its weight.

Distances count steps of 2^-24 and weights steps of 2^-44, so that sets of tokens are compared and
summed in integers: a sum has no order, and a row's token depends on nothing but the row.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Stands for -inf and NaN, so that nothing infinite needs care: no logit of a model is so small.
NOTHING = tl.constexpr(-1e30)
# So that a logit over its temperature is finite. The largest token is all but certain by far.
MIN_TEMPERATURE = tl.constexpr(2.0**-20)
# A distance that no token is kept at: exp(-127) is no fp32 number.
FARTHEST = tl.constexpr(127 << 24)
STEP = tl.constexpr(2.0**-24)
# Of the largest token. 2^18 weights, the longest vocabulary, do not overflow int64.
UNIT = tl.constexpr(1 << 44)
MAX_VOCAB = 1 << 18


@triton.jit
def load_scaled(logit_ptrs, mask, temperature):
    """Fp32 logits over ``temperature``, rounded as a division rounds; NOTHING where none is."""
    logits = tl.load(logit_ptrs, mask=mask, other=NOTHING).to(tl.float32)
    logits = tl.maximum(logits, NOTHING)
    temperature = tl.maximum(temperature, MIN_TEMPERATURE)
    inverse = tl.div_rn(1.0, temperature)
    near = logits * inverse
    return tl.fma(tl.fma(near, -temperature, logits), inverse, near)


@triton.jit
def exponential(x):
    """Numbers that fp32 cannot hold normally become 0."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def distance(scaled, top):
    """Int32, from 0 to FARTHEST."""
    return (tl.minimum(top - scaled, 127.0) * (1.0 / STEP)).to(tl.int32)


@triton.jit
def share(distance):
    """Fp32: exp(-distance), what a token weighs beside the largest."""
    return exponential(distance.to(tl.float32) * -STEP)


@triton.jit
def weight(distance):
    """Int64: ``share`` in steps of 1 / UNIT."""
    return (share(distance) * UNIT).to(tl.int64)
