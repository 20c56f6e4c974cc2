"""4-bit weights, one asymmetric scale an output channel: ``W ~ (codes - zeros) * scales``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

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


class ChannelRange(NamedTuple):
    """Where the codes of each row lie: ``scales`` fp32 [N], ``zeros`` fp32 [N], 0..15."""

    scales: Tensor
    zeros: Tensor

    @classmethod
    def of(cls, weight: Tensor, ratio: Tensor | float = 1.0) -> Self:
        """From the least to the largest weight of a row of fp32 [N, K], times ``ratio`` [N].

        The range always includes 0, so 0 stays exactly 0.
        """
        low = weight.amin(dim=1).clamp_(max=0) * ratio
        high = weight.amax(dim=1).clamp_(min=0) * ratio
        scales = nonzero_scale(high / 15 - low / 15)  # the difference itself may overflow
        return cls(scales, (-low / scales).round_().clamp_(0, 15))

    def round(self, weight: Tensor) -> ChannelWeight:
        """To the nearest codes."""
        codes = (weight / self.scales[:, None]).round_().add_(self.zeros[:, None]).clamp_(0, 15)
        return ChannelWeight(codes.to(torch.uint8), self.scales, self.zeros.to(torch.uint8))


def round_to_channels(weight: Tensor) -> ChannelWeight:
    """Round float32 ``weight`` [N, K] in its whole range."""
    return ChannelRange.of(weight).round(weight)
