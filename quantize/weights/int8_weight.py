"""INT8 weights, one scale an output channel: ``W ~ codes * scales``.

Both the ``w8a8kv8`` format (limit 127) and level 0 of the progressive format (limit 119).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

W8_LIMIT = 127


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """``codes`` int8 [N, K] within +-limit, ``scales`` float32 [N]."""

    codes: Tensor
    scales: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores, by suffix."""
        return {"weight": self.codes, "scales": self.scales}

    def dequantize(self) -> Tensor:
        """float32 [N, K]."""
        return self.codes.float() * self.scales[:, None]


def round_to_int8(weight: Tensor, limit: int = W8_LIMIT) -> Int8Weight:
    """Round float32 ``weight`` [N, K] half to even; a row of zeros gets scale 1."""
    scales = int8_scales(weight, limit)
    codes = (weight / scales[:, None]).round_().clamp_(-limit, limit)
    return Int8Weight(codes.to(torch.int8), scales)


def int8_scales(weight: Tensor, limit: int = W8_LIMIT) -> Tensor:
    """The scale of each row of [N, K], fp32 [N]."""
    return nonzero_scale(weight.abs().amax(dim=1) / limit)


def nonzero_scale(scales: Tensor) -> Tensor:
    """A row of zeros, or one so small that its scale underflows, is divided by 1 instead."""
    return torch.where(scales > 0, scales, 1.0)
