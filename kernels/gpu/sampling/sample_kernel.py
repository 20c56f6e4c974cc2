"""The launch of the sampler: its last program of a row to end chooses the token."""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.sampling.sample_choice import choose
from qoq.kernels.gpu.sampling.sample_order import row_at
from qoq.kernels.gpu.sampling.sample_summary import summarize

# Spans of a program.
TILE = 256
NUM_WARPS = 8
# Of a thread: two programs share a multiprocessor.
MAX_REGISTERS = 128


@triton.jit
def sampler_kernel(
    logit_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    position_ptr,
    top_ptr,
    sum_ptr,
    span_ptr,
    candidate_ptr,
    arrival_ptr,
    token_ptr,
    V,
    num_spans,
    stride_logits,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
    SPANS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = row_at(
        tl.program_id(1),
        tl.num_programs(1),
        temperature_ptr,
        top_k_ptr,
        top_p_ptr,
        min_p_ptr,
        V,
    ).to(tl.int64)
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
        TILE,
    )
    tl.debug_barrier()  # all threads have stored before one says so
    if tl.atomic_add(arrival_ptr + row, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(arrival_ptr + row, 0)
        token = choose(
            logit_ptr + row * stride_logits,
            tl.load(temperature_ptr + row),
            tl.load(top_k_ptr + row),
            tl.load(top_p_ptr + row),
            tl.load(min_p_ptr + row),
            tl.load(seed_ptr + row),
            tl.load(position_ptr + row),
            top_ptr + row * num_spans,
            sum_ptr + row * num_spans,
            span_ptr + row * num_spans,
            candidate_ptr + row * tl.maximum(num_spans, CANDIDATES),
            V,
            num_spans,
            SPAN,
            SPANS,
            CANDIDATES,
            BLOCK,
        )
        tl.store(token_ptr + row, token.to(tl.int64))
