"""What a request's tokens were, counted on the GPU, and the penalties that follow from it.

A request's row has one int16 for each token of the vocabulary: how often it came in the output (up
to 32767), and in the sign bit whether it is in the prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.sampling.logit_checks import check_logits, check_vector
from qoq.kernels.gpu.sizes import cdiv

IN_PROMPT = -(1 << 15)
MAX_COUNT = tl.constexpr(32767)
_BLOCK = 2048
_ROWS = 64


class Penalties(NamedTuple):
    """Of each row, fp32 ``[R]`` on the device.

    ``repetition`` 1 is off, ``presence`` and ``frequency`` 0 are.
    """

    repetition: Tensor
    presence: Tensor
    frequency: Tensor


def count_tokens(counts: Tensor, prompt: Tensor, output: Tensor) -> None:
    """Set one request's ``counts`` int16 ``[V]`` from its tokens, int64, all of them below V."""
    times = torch.zeros(counts.shape, dtype=torch.int32, device=counts.device)
    times.scatter_add_(0, output, torch.ones_like(output, dtype=torch.int32))
    counts.copy_(times.clamp_(max=MAX_COUNT.value))
    counts[prompt] += IN_PROMPT


def count_sampled_triton(tokens: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Count ``tokens`` int64 ``[R]`` in ``rows`` int64 ``[R]`` of ``counts`` int16 ``[N, V]``.

    ``rows`` differ from each other; -1 counts nothing.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_vector("tokens", tokens, None, torch.int64)
    check_vector("rows", rows, tokens.numel(), torch.int64)
    _check_counts(counts)
    if tokens.numel():
        _count_kernel[(cdiv(tokens.numel(), _ROWS),)](
            tokens,
            rows,
            counts,
            tokens.numel(),
            counts.shape[0],
            counts.shape[1],
            ROWS=_ROWS,
            num_warps=2,
        )


def penalize_triton(logits: Tensor, penalties: Penalties, counts: Tensor, rows: Tensor) -> None:
    """Apply ``penalties`` to ``logits`` ``[R, V]`` in place, as ``engine/sampler.py`` does.

    ``rows`` int64 ``[R]`` are where in ``counts`` int16 ``[N, V]`` theirs are: logits whose
    penalties are off, or whose row is -1, stay as they are and cost nothing.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_logits(logits)
    num_rows, vocab_size = logits.shape
    for name, tensor in zip(Penalties._fields, penalties, strict=True):
        check_vector(f"penalties.{name}", tensor, num_rows, torch.float32)
    check_vector("rows", rows, num_rows, torch.int64)
    _check_counts(counts)
    if counts.shape[1] != vocab_size:
        raise ValueError(f"counts: expected [N, {vocab_size}], got {list(counts.shape)}")
    if num_rows:
        _penalize_kernel[(cdiv(vocab_size, _BLOCK), num_rows)](
            logits,
            *penalties,
            counts,
            rows,
            vocab_size,
            counts.shape[0],
            logits.stride(0),
            BLOCK=_BLOCK,
            num_warps=4,
            enable_fp_fusion=False,
        )


@triton.jit(do_not_specialize=["num_tokens", "num_rows"])
def _count_kernel(token_ptr, row_ptr, count_ptr, num_tokens, num_rows, V, ROWS: tl.constexpr):
    index = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.load(token_ptr + index, mask=index < num_tokens, other=-1)
    row = tl.load(row_ptr + index, mask=index < num_tokens, other=-1)
    is_counted = (row >= 0) & (row < num_rows) & (token >= 0) & (token < V)
    counts = count_ptr + row * V + token
    count = tl.load(counts, mask=is_counted, other=0)
    is_full = (count & MAX_COUNT) == MAX_COUNT
    tl.store(counts, tl.where(is_full, count, count + 1), mask=is_counted)


@triton.jit(do_not_specialize=["num_rows"])
def _penalize_kernel(
    logit_ptr,
    repetition_ptr,
    presence_ptr,
    frequency_ptr,
    count_ptr,
    row_ptr,
    V,
    num_rows,
    stride_logits,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(1).to(tl.int64)
    repetition = tl.load(repetition_ptr + place)
    presence = tl.load(presence_ptr + place)
    frequency = tl.load(frequency_ptr + place)
    row = tl.load(row_ptr + place)
    is_off = (repetition == 1) & (presence == 0) & (frequency == 0)
    if is_off | (row < 0) | (row >= num_rows):
        return
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(count_ptr + row * V + token, mask=token < V, other=0)
    logits = logit_ptr + place * stride_logits + token
    x = tl.load(logits, mask=count != 0, other=0.0).to(tl.float32)
    repeated = tl.where(x > 0, tl.div_rn(x, repetition + tl.zeros_like(x)), x * repetition)
    times = (count & MAX_COUNT).to(tl.float32)
    penalized = repeated - tl.where(times > 0, presence + frequency * times, 0.0)
    tl.store(logits, penalized.to(logit_ptr.dtype.element_ty), mask=count != 0)


def _check_counts(counts: Tensor) -> None:
    if counts.dtype != torch.int16 or counts.dim() != 2 or not counts.is_contiguous():
        raise ValueError(
            f"counts: expected contiguous int16 [N, V], got {counts.dtype} {list(counts.shape)}"
        )
