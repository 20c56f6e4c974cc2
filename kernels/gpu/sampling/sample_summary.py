"""The one pass over all logits: the largest of each span of 64 tokens, and their weights' sum."""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sampling.sample_weights import exponential, load_scaled

SPAN = 64
# Of a program.
SPANS = 128
NUM_WARPS = 4


@triton.jit
def summarize(
    logit_ptr,
    temperature_ptr,
    top_ptr,
    sum_ptr,
    row,
    V,
    num_spans,
    stride_logits,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
):
    """Of the SPANS spans that ``program_id(0)`` counts, in one row (int64)."""
    span = tl.program_id(0) * SPANS + tl.arange(0, SPANS)
    token = span[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    temperature = tl.load(temperature_ptr + row)
    is_drawn = temperature > 0
    logits = logit_ptr + row * stride_logits + token
    x = load_scaled(logits, token < V, tl.where(is_drawn, temperature, 1.0))
    top = tl.max(x, 1)
    place = row * num_spans + span
    tl.store(top_ptr + place, top, mask=span < num_spans)
    if is_drawn:
        total = tl.sum(exponential(x - top[:, None]), 1)
        tl.store(sum_ptr + place, total, mask=span < num_spans)


@triton.jit
def summary_kernel(
    logit_ptr,
    temperature_ptr,
    top_ptr,
    sum_ptr,
    V,
    num_spans,
    stride_logits,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
):
    """Tops fp32 ``[R, num_spans]``; for rows that draw, sums of exp(x - top) beside them."""
    row = tl.program_id(1).to(tl.int64)
    summarize(
        logit_ptr,
        temperature_ptr,
        top_ptr,
        sum_ptr,
        row,
        V,
        num_spans,
        stride_logits,
        SPAN,
        SPANS,
    )
