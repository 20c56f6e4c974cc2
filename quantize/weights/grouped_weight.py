"""4-bit weights as other quantizers store them: a float scale and a zero point for each group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.quantize.weights.channel_weight import ChannelWeight


@dataclass(frozen=True, slots=True)
class GroupedWeight:
    """``W = (codes - zeros) * scales``; ``group_index`` says which group each input belongs to.

    ``codes`` uint8 [N, K] in 0..15, ``scales`` float32 and ``zeros`` uint8 [N, G], ``group_index``
    int64 [K]. Groups of act-order are not contiguous in K.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    group_index: Tensor

    @property
    def is_contiguous(self) -> bool:
        k, num_groups = self.codes.shape[1], self.scales.shape[1]
        return torch.equal(self.group_index, contiguous_groups(k, num_groups))

    def dequantize(self) -> Tensor:
        """float32 [N, K]."""
        zeros, scales = self.zeros[:, self.group_index], self.scales[:, self.group_index]
        return (self.codes.float() - zeros.float()) * scales

    def to_channels(self) -> ChannelWeight:
        """The same weights, of a single group. Raises ValueError for a zero point past 15."""
        assert self.scales.shape[1] == 1
        if int(self.zeros.max()) > 15:
            raise ValueError("a zero point of 16 has no place in one scale a channel")
        return ChannelWeight(self.codes, self.scales[:, 0], self.zeros[:, 0])


def contiguous_groups(k: int, num_groups: int) -> Tensor:
    """The group index of groups that follow each other, int64 [K]."""
    return torch.arange(num_groups).repeat_interleave(k // num_groups)
