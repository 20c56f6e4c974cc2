"""4-bit weights in two levels: ``W ~ scales * W8'`` and ``W8' = codes * s + b`` in each group.

Level 0 rounds each output channel to integers within +-119; level 1 codes those integers with an
integer scale ``s`` in 1..17 and an integer offset ``b``. 119 leaves room for half of the largest
``s``, so that W8' is a legal INT8 value whatever the rounding (DESIGN section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qoq.kernels.packing import pack_codes
from qoq.quantize.weights.cost import SquaredError
from qoq.quantize.weights.int8_weight import round_to_int8
from qoq.quantize.weights.lattice import PROTECTIVE_LIMIT, Lattice, search_lattice


@dataclass(frozen=True, slots=True)
class ProgressiveWeight:
    """``codes`` uint8 [N, K] in 0..15, ``scales`` float32 [N] (level 0),
    ``group_scales`` uint8 [N, K / group] in 1..17, ``group_offsets`` int8 [N, K / group].
    """

    codes: Tensor
    scales: Tensor
    group_scales: Tensor
    group_offsets: Tensor

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, lattice: Lattice) -> Self:
        """``codes`` [N, K] of any type, of a lattice [N, K / group, 1]."""
        return cls(
            codes.to(torch.uint8),
            scales,
            lattice.scale.squeeze(-1).to(torch.uint8),
            lattice.offset.squeeze(-1).to(torch.int8),
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores, by suffix."""
        integers = self.integers()
        assert integers.min() >= -128 and integers.max() <= 127, "W8' does not fit INT8"
        return {
            "qweight": pack_codes(self.codes),
            "scales": self.scales,
            "group_scales": self.group_scales,
            "group_offsets": self.group_offsets,
        }

    def integers(self) -> Tensor:
        """W8', int16 [N, K]; int16 so that an illegal value shows instead of wrapping."""
        num_rows, num_groups = self.group_scales.shape
        codes = self.codes.view(num_rows, num_groups, -1).to(torch.int16)
        return (codes * self.group_scales[..., None] + self.group_offsets[..., None]).flatten(1)

    def dequantize(self) -> Tensor:
        """float32 [N, K]."""
        return self.integers().float() * self.scales[:, None]


def round_to_groups(weight: Tensor, group_size: int) -> ProgressiveWeight:
    """Round float32 ``weight`` [N, K]; ``group_size`` must divide K."""
    level0 = round_to_int8(weight, PROTECTIVE_LIMIT)
    values = level0.codes.float().unflatten(1, (-1, group_size))
    lattice = search_lattice(values, SquaredError())
    return ProgressiveWeight.of(lattice.encode(values).flatten(1), level0.scales, lattice)
