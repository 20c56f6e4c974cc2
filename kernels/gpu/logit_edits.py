"""Changes of single logits, and masks over a vocabulary, in place before sampling.

What ``engine/logit_rules.py`` and ``engine/grammar_mask.py`` define: biases; bans, which are biases
of -inf; and masks of what may come next. A ban that would leave no token must be left out by the
host, which knows both sets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.logit_checks import check_logits, check_vector
from qoq.kernels.gpu.sizes import cdiv

_BLOCK = 4096
_EDITS = 128


class LogitEdits(NamedTuple):
    """``values`` fp32 ``[E]`` are added to the logits of ``token_ids`` int32 ``[E]``.

    Those of row ``r`` are from ``starts[r]`` to before ``starts[r + 1]``, int32 ``[R + 1]``; each
    token comes once in a row. An id out of range changes nothing.
    """

    starts: Tensor
    token_ids: Tensor
    values: Tensor


def edit_logits_triton(logits: Tensor, edits: LogitEdits) -> None:
    """Add ``edits`` to ``logits`` ``[R, V]``. The tensors may be longer than the rows need.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_logits(logits)
    starts, token_ids, values = edits
    if starts.dtype != torch.int32 or starts.dim() != 1 or len(starts) < logits.shape[0] + 1:
        raise ValueError(
            f"edits.starts: expected int32 [{logits.shape[0] + 1}] or more, got {starts.dtype} "
            f"{list(starts.shape)}"
        )
    check_vector("edits.token_ids", token_ids, None, torch.int32)
    check_vector("edits.values", values, len(token_ids), torch.float32)
    if logits.shape[0]:
        _edit_kernel[(logits.shape[0],)](
            logits,
            *edits,
            logits.shape[1],
            len(token_ids),
            logits.stride(0),
            EDITS=_EDITS,
            num_warps=4,
        )


def mask_logits_triton(logits: Tensor, masks: Tensor, mask_rows: Tensor) -> None:
    """Set logits ``[R, V]`` to -inf where the bit of the row's mask is 0.

    ``masks`` int32 ``[N, ceil(V / 32)]``, the lowest bit first; ``mask_rows`` int32 ``[R]`` names
    each row's mask, -1 for none. Where nothing allowed is left finite, the allowed tokens become
    equally likely.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_logits(logits)
    num_rows, vocab_size = logits.shape
    words = cdiv(vocab_size, 32)
    if masks.dtype != torch.int32 or masks.shape[1:] != (words,) or not masks.is_contiguous():
        raise ValueError(
            f"masks: expected contiguous int32 [N, {words}], got {masks.dtype} {list(masks.shape)}"
        )
    check_vector("mask_rows", mask_rows, num_rows, torch.int32)
    if num_rows:
        _mask_kernel[(num_rows,)](
            logits,
            masks,
            mask_rows,
            vocab_size,
            masks.shape[0],
            logits.stride(0),
            BLOCK=_BLOCK,
            num_warps=8,
        )


@triton.jit
def _edit_kernel(
    logit_ptr,
    start_ptr,
    token_ptr,
    value_ptr,
    V,
    num_edits,
    stride_logits,
    EDITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.maximum(tl.load(start_ptr + row), 0)
    stop = tl.minimum(tl.load(start_ptr + row + 1), num_edits)
    for first in range(start, stop, EDITS):
        index = first + tl.arange(0, EDITS)
        token = tl.load(token_ptr + index, mask=index < stop, other=-1)
        value = tl.load(value_ptr + index, mask=index < stop, other=0.0)
        is_token = (token >= 0) & (token < V)
        logits = logit_ptr + row * stride_logits + token
        x = tl.load(logits, mask=is_token, other=0.0).to(tl.float32)
        tl.store(logits, (x + value).to(logit_ptr.dtype.element_ty), mask=is_token)


@triton.jit
def _allowed(words, token, V):
    word = tl.load(words + token // 32, mask=token < V, other=0)
    return ((word >> (token % 32)) & 1) != 0


@triton.jit
def _mask_kernel(
    logit_ptr,
    mask_ptr,
    mask_row_ptr,
    V,
    num_masks,
    stride_logits,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    mask_row = tl.load(mask_row_ptr + row)
    if (mask_row < 0) | (mask_row >= num_masks):
        return
    words = mask_ptr + mask_row.to(tl.int64) * tl.cdiv(V, 32)
    logits = logit_ptr + row * stride_logits
    none: tl.constexpr = float("-inf")
    top = tl.full((BLOCK,), none, tl.float32)
    for first in range(0, V, BLOCK):
        token = first + tl.arange(0, BLOCK)
        is_allowed = _allowed(words, token, V)
        x = tl.load(logits + token, mask=is_allowed & (token < V), other=none).to(tl.float32)
        top = tl.maximum(top, x)
        tl.store(logits + token, none, mask=(token < V) & ~is_allowed)
    if tl.max(top, 0) == none:
        for first in range(0, V, BLOCK):
            token = first + tl.arange(0, BLOCK)
            is_allowed = _allowed(words, token, V)
            tl.store(logits + token, 0.0, mask=is_allowed & (token < V))
