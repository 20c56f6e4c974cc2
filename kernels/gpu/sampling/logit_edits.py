"""Changes of single logits, and masks over a vocabulary, in place before sampling.

What ``engine/logit_rules.py`` and ``engine/grammar_mask.py`` define: biases; bans, which are biases
of -inf; and masks of what may come next. A ban may depend on the token before, which the host need
not know. One that would leave no token must be left out by the host, which knows both sets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.gpu.sampling.logit_checks import check_logits, check_vector
from qoq.kernels.gpu.sizes import cdiv

_WORDS = 256
_EDITS = 128


class LogitEdits(NamedTuple):
    """``values`` fp32 ``[E]`` are added to the logits of ``token_ids`` int32 ``[E]``.

    Those of row ``r`` are from ``starts[r]`` to before ``starts[r + 1]``, int32 ``[R + 1]``; a
    token comes once in a row, or with a value of -inf only. An id out of range changes nothing.
    Where ``follows`` int32 ``[E]`` is a token and not -1, the edit is for a logit of the token
    that follows it.
    """

    starts: Tensor
    token_ids: Tensor
    values: Tensor
    follows: Tensor


def edit_logits_triton(
    logits: Tensor, edits: LogitEdits, slots: Tensor, last_tokens: Tensor
) -> None:
    """Add ``edits`` to ``logits`` ``[R, V]``. The edits' tensors may be longer than the rows need.

    The token that a row's follows is in ``last_tokens`` int64 ``[S]``, at its place in ``slots``
    int64 ``[R]``; a slot out of range has none.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    check_logits(logits)
    starts, token_ids, values, follows = edits
    if starts.dtype != torch.int32 or starts.dim() != 1 or len(starts) < logits.shape[0] + 1:
        raise ValueError(
            f"edits.starts: expected int32 [{logits.shape[0] + 1}] or more, got {starts.dtype} "
            f"{list(starts.shape)}"
        )
    check_vector("edits.token_ids", token_ids, None, torch.int32)
    check_vector("edits.values", values, len(token_ids), torch.float32)
    check_vector("edits.follows", follows, len(token_ids), torch.int32)
    check_vector("slots", slots, logits.shape[0], torch.int64)
    check_vector("last_tokens", last_tokens, None, torch.int64)
    if logits.shape[0]:
        _edit_kernel[(logits.shape[0],)](
            logits,
            *edits,
            slots,
            last_tokens,
            logits.shape[1],
            len(token_ids),
            len(last_tokens),
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
            WORDS=_WORDS,
            num_warps=16,
        )


@triton.jit(do_not_specialize=["num_edits", "num_slots"])
def _edit_kernel(
    logit_ptr,
    start_ptr,
    token_ptr,
    value_ptr,
    follow_ptr,
    slot_ptr,
    last_ptr,
    V,
    num_edits,
    num_slots,
    stride_logits,
    EDITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + row)
    last = tl.load(last_ptr + slot, mask=(slot >= 0) & (slot < num_slots), other=-2)
    start = tl.maximum(tl.load(start_ptr + row), 0)
    stop = tl.minimum(tl.load(start_ptr + row + 1), num_edits)
    for first in range(start, stop, EDITS):
        index = first + tl.arange(0, EDITS)
        token = tl.load(token_ptr + index, mask=index < stop, other=-1)
        value = tl.load(value_ptr + index, mask=index < stop, other=0.0)
        follow = tl.load(follow_ptr + index, mask=index < stop, other=-1)
        is_edited = (token >= 0) & (token < V) & ((follow < 0) | (follow == last))
        logits = logit_ptr + row * stride_logits + token
        x = tl.load(logits, mask=is_edited, other=0.0).to(tl.float32)
        tl.store(logits, (x + value).to(logit_ptr.dtype.element_ty), mask=is_edited)


@triton.jit
def _next_words(words, first, num_words, WORDS: tl.constexpr):
    """Tokens ``[WORDS, 32]`` from word ``first`` on, and which of them are allowed."""
    word = first + tl.arange(0, WORDS)
    bit = tl.arange(0, 32)
    bits = tl.load(words + word, mask=word < num_words, other=0)
    return word[:, None] * 32 + bit[None, :], ((bits[:, None] >> bit[None, :]) & 1) != 0


@triton.jit(do_not_specialize=["num_masks"])
def _mask_kernel(
    logit_ptr,
    mask_ptr,
    mask_row_ptr,
    V,
    num_masks,
    stride_logits,
    WORDS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    mask_row = tl.load(mask_row_ptr + row)
    if (mask_row < 0) | (mask_row >= num_masks):
        return
    num_words = tl.cdiv(V, 32)
    words = mask_ptr + mask_row.to(tl.int64) * num_words
    logits = logit_ptr + row * stride_logits
    none: tl.constexpr = float("-inf")
    top = tl.full((WORDS, 32), none, tl.float32)
    for first in range(0, num_words, WORDS):
        token, is_allowed = _next_words(words, first, num_words, WORDS)
        x = tl.load(logits + token, mask=token < V, other=none)
        kept = tl.where(is_allowed, x, none)
        top = tl.maximum(top, kept.to(tl.float32))
        tl.store(logits + token, kept, mask=token < V)
    if tl.max(top) == none:
        for first in range(0, num_words, WORDS):
            token, is_allowed = _next_words(words, first, num_words, WORDS)
            tl.store(logits + token, 0.0, mask=is_allowed & (token < V))
