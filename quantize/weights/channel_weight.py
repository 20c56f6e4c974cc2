"""4-bit weights, one asymmetric scale an output channel: ``W ~ (codes - zeros) * scales``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.kernels.packing import pack_codes
from qoq.quantize.weights.int8_weight import nonzero_scale


@dataclass(frozen=True, slots=True)
class ChannelWeight:
    """``codes`` uint8 [N, K] in 0..15, ``scales`` float32 [N], ``zeros`` uint8 [N] in 0..15."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores, by suffix."""
        return {"qweight": pack_codes(self.codes), "scales": self.scales, "zeros": self.zeros}

    def dequantize(self) -> Tensor:
        """float32 [N, K]."""
        return (self.codes.float() - self.zeros[:, None].float()) * self.scales[:, None]


def round_to_channels(weight: Tensor) -> ChannelWeight:
    """Round float32 ``weight`` [N, K]. The range always includes 0, so 0 stays exactly 0."""
    low = weight.amin(dim=1).clamp_(max=0)
    high = weight.amax(dim=1).clamp_(min=0)
    scales = nonzero_scale(high / 15 - low / 15)  # the difference itself may overflow
    zeros = (-low / scales).round_().clamp_(0, 15)
    codes = (weight / scales[:, None]).round_().add_(zeros[:, None]).clamp_(0, 15)
    return ChannelWeight(codes.to(torch.uint8), scales, zeros.to(torch.uint8))
