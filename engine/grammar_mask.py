"""Grammars on logits: each row keeps what its own grammar allows next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.grammar import Matcher


def grammar_masks(
    matchers: Sequence[Matcher], vocab_size: int, *, is_pinned: bool = False
) -> Tensor:
    """One bit a token, the lowest first: int32 ``[N, ceil(V / 32)]`` in host memory."""
    shape = (len(matchers), -(-vocab_size // 32))
    masks = torch.empty(shape, dtype=torch.int32, pin_memory=is_pinned)
    for mask, matcher in zip(masks, matchers, strict=True):
        matcher.write_mask(mask.data_ptr(), mask.nbytes)
    return masks


def mask_by_grammar(logits: Tensor, matchers: Sequence[Matcher | None]) -> None:
    """Set the rest of each row of fp32 ``[R, V]`` to -inf, in place; None leaves a row alone.

    Where nothing allowed is left finite, the allowed tokens become equally likely.
    """
    rows = [row for row, matcher in enumerate(matchers) if matcher is not None]
    if not rows:
        return
    masks = grammar_masks([m for m in matchers if m is not None], logits.shape[1])
    allowed = _unpack(masks)[:, : logits.shape[1]]
    kept = logits[rows].masked_fill(~allowed, -torch.inf)
    is_empty = kept.isneginf().all(dim=-1, keepdim=True)
    logits[rows] = kept.masked_fill(is_empty & allowed, 0.0)


def _unpack(masks: Tensor) -> Tensor:
    bits = masks.view(torch.uint8)[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1).bool()
