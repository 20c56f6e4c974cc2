"""Clipping: a smaller range of codes, where finer steps gain more than the clipped weights lose.

The gain is counted in the layer's output on calibration inputs. Of queries and keys it is the
error of the attention scores that matters: a sum over output channels of each one's output error,
weighted by the other side's power. As every channel has its own range, the weights change nothing,
and the least output error is the least score error too (up to what channels have in common).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qoq.quantize.hessian import Hessian
from qoq.quantize.weights.channel_weight import ChannelRange, ChannelWeight
from qoq.quantize.weights.cost import Cost, OutputError
from qoq.quantize.weights.int8_weight import int8_scales
from qoq.quantize.weights.lattice import PROTECTIVE_LIMIT, Lattice, search_lattice
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


@dataclass(frozen=True, slots=True)
class ClippedRounding:
    """Rounding to nearest in the range of least output error; ``hessian`` fp32 [K, K], damped."""

    hessian: Tensor

    @classmethod
    def of(cls, hessian: Hessian) -> Self:
        return cls(hessian.damped().float())

    def to_groups(self, weight: Tensor, group_size: int) -> ProgressiveWeight:
        """Of fp32 [N, K]. Each group's search sees the errors of that group alone."""
        scales = int8_scales(weight, PROTECTIVE_LIMIT)
        # A denormal scale may be too small by a third.
        values = (weight / scales[:, None]).clamp_(-PROTECTIVE_LIMIT, PROTECTIVE_LIMIT)
        groups = values.unflatten(1, (-1, group_size))
        pairs = zip(groups.unbind(1), self._blocks(group_size), strict=True)
        lattice = Lattice.stack([search_lattice(group, OutputError(h)) for group, h in pairs])
        return ProgressiveWeight.of(lattice.encode(groups).flatten(1), scales, lattice)

    def to_channels(self, weight: Tensor) -> ChannelWeight:
        """Of fp32 [N, K]."""
        return clip_channels(weight, OutputError(self.hessian)).round(weight)

    def _blocks(self, size: int) -> list[Tensor]:
        """On the diagonal, [size, size] each."""
        starts = range(0, len(self.hessian), size)
        return [self.hessian[start : start + size, start : start + size] for start in starts]


def clip_channels(weight: Tensor, cost: Cost) -> ChannelRange:
    """The range of least cost for each row of fp32 [N, K]; the whole range where none is better."""
    rows = weight / ChannelRange.of(weight).scales[:, None]  # squares of these stay within fp32
    costs = [cost(ChannelRange.of(rows, r).round(rows).dequantize() - rows) for r in RATIOS]
    best = torch.cat(costs, dim=1).argmin(dim=1)
    return ChannelRange.of(weight, torch.tensor(RATIOS)[best])
