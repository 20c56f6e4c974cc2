"""Grammars on logits: each row keeps what its own grammar allows next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qoq.engine.grammar import Matcher


def mask_by_grammar(logits: Tensor, matchers: Sequence[Matcher | None]) -> None:
    """Set the rest of each row of fp32 ``[R, V]`` to -inf, in place; None leaves a row alone.

    Where nothing allowed is left finite, the allowed tokens become equally likely.
    """
    rows = [row for row, matcher in enumerate(matchers) if matcher is not None]
    if not rows:
        return
    packed = b"".join(matcher.mask() for matcher in matchers if matcher is not None)
    allowed = _unpack(packed, len(rows), logits)
    kept = logits[rows].masked_fill(~allowed, -torch.inf)
    is_empty = kept.isneginf().all(dim=-1, keepdim=True)
    logits[rows] = kept.masked_fill(is_empty & allowed, 0.0)


def _unpack(packed: bytes, num_rows: int, logits: Tensor) -> Tensor:
    """Bool ``[num_rows, V]`` on the device of ``logits``; only the bits travel there."""
    device = logits.device
    words = torch.frombuffer(bytearray(packed), dtype=torch.uint8).to(device)
    bits = words.view(num_rows, -1, 1) >> torch.arange(8, dtype=torch.uint8, device=device) & 1
    return bits.flatten(1)[:, : logits.shape[-1]].bool()
