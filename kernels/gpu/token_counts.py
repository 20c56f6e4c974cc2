"""What a request's tokens were, counted on the GPU, and the penalties that follow from it.

A slot has one int16 for each token of the vocabulary: how often it came in the output (up to
32767), and in the sign bit whether it is in the prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.logit_checks import check_logits, check_vector
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
    """Set one slot's ``counts`` int16 ``[V]`` from its tokens, int64, all of them below V."""
    times = torch.zeros(counts.shape, dtype=torch.int32, device=counts.device)
    times.scatter_add_(0, output, torch.ones_like(output, dtype=torch.int32))
    counts.copy_(times.clamp_(max=MAX_COUNT.value))
    counts[prompt] += IN_PROMPT


def keep_tokens_triton(
    tokens: Tensor, slots: Tensor, last_tokens: Tensor, counts: Tensor | None = None
) -> None:
    """Write ``tokens`` int64 ``[R]`` to ``last_tokens`` int64 ``[S]``, and count them.

    ``slots`` int64 ``[R]`` differ from each other; -1 keeps nothing. ``counts`` int16 ``[S, V]``.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_vector("tokens", tokens, None, torch.int64)
    check_vector("slots", slots, tokens.numel(), torch.int64)
    check_vector("last_tokens", last_tokens, None, torch.int64)
    if counts is not None:
        _check_counts(counts, last_tokens.numel())
    if tokens.numel():
        _keep_kernel[(cdiv(tokens.numel(), _ROWS),)](
            tokens,
            slots,
            last_tokens,
            tokens if counts is None else counts,
            tokens.numel(),
            last_tokens.numel(),
            0 if counts is None else counts.shape[1],
            COUNTS=counts is not None,
            ROWS=_ROWS,
            num_warps=2,
        )


def penalize_triton(logits: Tensor, penalties: Penalties, counts: Tensor, slots: Tensor) -> None:
    """Apply ``penalties`` to ``logits`` ``[R, V]`` in place, as ``engine/sampler.py`` does.

    ``counts`` int16 ``[S, V]``, ``slots`` int64 ``[R]``: a row whose penalties are off, or whose
    slot is -1, stays as it is and costs nothing.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_logits(logits)
    num_rows, vocab_size = logits.shape
    for name, tensor in zip(Penalties._fields, penalties, strict=True):
        check_vector(f"penalties.{name}", tensor, num_rows, torch.float32)
    check_vector("slots", slots, num_rows, torch.int64)
    _check_counts(counts, counts.shape[0])
    if counts.shape[1] != vocab_size:
        raise ValueError(f"counts: expected [S, {vocab_size}], got {list(counts.shape)}")
    if num_rows:
        _penalize_kernel[(cdiv(vocab_size, _BLOCK), num_rows)](
            logits,
            *penalties,
            counts,
            slots,
            vocab_size,
            counts.shape[0],
            logits.stride(0),
            BLOCK=_BLOCK,
            num_warps=4,
            enable_fp_fusion=False,
        )


@triton.jit
def _keep_kernel(
    token_ptr,
    slot_ptr,
    last_ptr,
    count_ptr,
    num_rows,
    num_slots,
    V,
    COUNTS: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.load(token_ptr + row, mask=row < num_rows, other=-1)
    slot = tl.load(slot_ptr + row, mask=row < num_rows, other=-1)
    is_kept = (slot >= 0) & (slot < num_slots)
    tl.store(last_ptr + slot, token, mask=is_kept)
    if COUNTS:
        is_counted = is_kept & (token >= 0) & (token < V)
        counts = count_ptr + slot * V + token
        count = tl.load(counts, mask=is_counted, other=0)
        is_full = (count & MAX_COUNT) == MAX_COUNT
        tl.store(counts, tl.where(is_full, count, count + 1), mask=is_counted)


@triton.jit
def _penalize_kernel(
    logit_ptr,
    repetition_ptr,
    presence_ptr,
    frequency_ptr,
    count_ptr,
    slot_ptr,
    V,
    num_slots,
    stride_logits,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    repetition = tl.load(repetition_ptr + row)
    presence = tl.load(presence_ptr + row)
    frequency = tl.load(frequency_ptr + row)
    slot = tl.load(slot_ptr + row)
    is_off = (repetition == 1) & (presence == 0) & (frequency == 0)
    if is_off | (slot < 0) | (slot >= num_slots):
        return
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(count_ptr + slot * V + token, mask=token < V, other=0)
    logits = logit_ptr + row * stride_logits + token
    x = tl.load(logits, mask=count != 0, other=0.0).to(tl.float32)
    repeated = tl.where(x > 0, tl.div_rn(x, repetition + tl.zeros_like(x)), x * repetition)
    times = (count & MAX_COUNT).to(tl.float32)
    penalized = repeated - tl.where(times > 0, presence + frequency * times, 0.0)
    tl.store(logits, penalized.to(logit_ptr.dtype.element_ty), mask=count != 0)


def _check_counts(counts: Tensor, num_slots: int) -> None:
    if counts.dtype != torch.int16 or counts.dim() != 2 or not counts.is_contiguous():
        raise ValueError(
            f"counts: expected contiguous int16 [S, V], got {counts.dtype} {list(counts.shape)}"
        )
    if counts.shape[0] != num_slots:
        raise ValueError(f"counts: expected {num_slots} slots, got {counts.shape[0]}")
