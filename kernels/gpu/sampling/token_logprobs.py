"""Log-probabilities on a GPU, as ``engine/logprobs.py`` defines them: of tokens, and of the top n.

The summary of the sampler's first pass says where the largest logits are, so little is read twice.
Of equal logits the lowest token id comes first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.sampling import sample_summary
from qoq.kernels.gpu.sampling.logit_checks import check_logits, check_vector
from qoq.kernels.gpu.sampling.sample_summary import SPAN, summary_kernel
from qoq.kernels.gpu.sampling.sample_weights import (
    MAX_VOCAB,
    NOTHING,
    UNIT,
    exponential,
    load_scaled,
)
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2

# Spans that are searched at a time for tokens likelier than the one that came.
_SPANS = 32


class LogprobRows(NamedTuple):
    """``logprobs`` fp32 and ``ranks`` int32 ``[R]``, from 1 on; ``top_ids`` int64 and
    ``top_logprobs`` fp32 ``[R, n]``, the likeliest first.
    """

    logprobs: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


def token_logprobs_triton(logits: Tensor, tokens: Tensor, num_top: int) -> LogprobRows:
    """Of the ``tokens`` int64 ``[R]`` that came, by unchanged ``logits`` ``[R, V]``.

    A row's numbers do not depend on the other rows. An id out of range has some -1e30.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_logits(logits, MAX_VOCAB)
    num_rows, vocab_size = logits.shape
    check_vector("tokens", tokens, num_rows, torch.int64)
    if not 0 <= num_top <= vocab_size:
        raise ValueError(f"num_top: expected 0 to {vocab_size}, got {num_top}")
    device = logits.device
    out = LogprobRows(
        torch.empty(num_rows, device=device),
        torch.empty(num_rows, dtype=torch.int32, device=device),
        torch.empty(num_rows, num_top, dtype=torch.int64, device=device),
        torch.empty(num_rows, num_top, device=device),
    )
    num_spans = cdiv(vocab_size, SPAN)
    summary = torch.empty(2, num_rows, num_spans, device=device)
    if num_rows:
        summary_kernel[(cdiv(num_spans, sample_summary.SPANS), num_rows)](
            logits,
            torch.ones(num_rows, device=device),
            summary[0],
            summary[1],
            vocab_size,
            num_spans,
            logits.stride(0),
            SPAN=SPAN,
            SPANS=sample_summary.SPANS,
            num_warps=sample_summary.NUM_WARPS,
            enable_fp_fusion=False,
        )
        _logprobs_kernel[(num_rows,)](
            logits,
            tokens,
            summary[0],
            summary[1],
            *out,
            vocab_size,
            num_spans,
            num_top,
            logits.stride(0),
            SPAN=SPAN,
            SPANS=_SPANS,
            BLOCK=next_power_of_2(num_spans),
            num_warps=8,
            enable_fp_fusion=False,
        )
    return out


@triton.jit
def _num_larger(logits, top_ptr, own, V, num_spans, SPAN: tl.constexpr, SPANS: tl.constexpr):
    """How many logits are larger than ``own``; only spans that have some are read."""
    counts = tl.zeros((SPANS,), tl.int32)
    for first in range(0, num_spans, SPANS):
        span = first + tl.arange(0, SPANS)
        tops = tl.load(top_ptr + span, mask=span < num_spans, other=NOTHING)
        token = span[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
        x = load_scaled(logits + token, (tops > own)[:, None] & (token < V), 1.0)
        counts += tl.sum((x > own).to(tl.int32), 1)
    return tl.sum(counts, 0)


@triton.jit
def _logprobs_kernel(
    logit_ptr,
    token_ptr,
    top_ptr,
    sum_ptr,
    logprob_ptr,
    rank_ptr,
    top_id_ptr,
    top_logprob_ptr,
    V,
    num_spans,
    num_top,
    stride_logits,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits = logit_ptr + row * stride_logits
    summary = row * num_spans
    index = tl.arange(0, BLOCK)
    in_row = index < num_spans
    tops = tl.load(top_ptr + summary + index, mask=in_row, other=float("-inf"))
    sums = tl.load(sum_ptr + summary + index, mask=in_row, other=0.0)
    top = tl.max(tops, 0)
    total = tl.sum((exponential(tops - top) * sums * UNIT).to(tl.int64), 0)
    log_total = tl.log(total.to(tl.float32) * (1.0 / UNIT))

    token = tl.load(token_ptr + row)
    own = load_scaled(logits + token, (token >= 0) & (token < V), 1.0)
    tl.store(logprob_ptr + row, own - top - log_total)
    larger = _num_larger(logits, top_ptr + summary, own, V, num_spans, SPAN, SPANS)
    tl.store(rank_ptr + row, larger + 1)

    column = tl.arange(0, SPAN)
    taken = tl.full((BLOCK,), -1, tl.int32)  # the last column among those equal to a span's top
    for place in range(num_top):
        largest = tl.max(tops, 0)
        span = tl.min(tl.where(tops == largest, index, BLOCK), 0)
        last = tl.sum(tl.where(index == span, taken, 0), 0)
        x = load_scaled(logits + span * SPAN + column, span * SPAN + column < V, 1.0)
        chosen = tl.min(tl.where((x == largest) & (column > last), column, SPAN), 0)
        is_left = (x < largest) | ((x == largest) & (column > chosen))
        following = tl.max(tl.where(is_left, x, NOTHING), 0)
        taken = tl.where(index == span, tl.where(following == largest, chosen, -1), taken)
        tops = tl.where(index == span, following, tops)
        out = row * num_top + place
        tl.store(top_id_ptr + out, (span * SPAN + chosen).to(tl.int64))
        tl.store(top_logprob_ptr + out, largest - top - log_total)
