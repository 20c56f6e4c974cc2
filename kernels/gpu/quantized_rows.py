"""INT8 quantization of a row that a Triton kernel holds, bit for bit as ``quantize_activations``.

Divisions are IEEE's: an approximate one would move codes that lie near a half.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.quantize import QuantizedActivations

# Adding and taking away 1.5 * 2 ** 23 rounds half to even whatever is far smaller.
ROUNDER = tl.constexpr(12582912.0)


class QuantizedRows(NamedTuple):
    """Room for ``codes`` int8 ``[M, K]``, ``scales`` fp32 ``[M, 1]``, ``sums`` int32 ``[M]``."""

    codes: Tensor
    scales: Tensor
    sums: Tensor

    @classmethod
    def allocate(cls, m: int, k: int, device: torch.device) -> QuantizedRows:
        return cls(
            torch.empty(m, k, dtype=torch.int8, device=device),
            torch.empty(m, 1, device=device),
            torch.empty(m, dtype=torch.int32, device=device),
        )

    @property
    def activations(self) -> QuantizedActivations:
        return QuantizedActivations(self.codes, self.scales)


@triton.jit
def store_quantized(values, row, column, mask, code_ptr, scale_ptr, sum_ptr, K: tl.constexpr):
    """``values`` fp32 ``[BLOCK]`` of one row, 0 where ``mask`` is False."""
    scale = tl.div_rn(tl.max(tl.abs(values), 0), 127.0)
    scale = tl.where(scale == 0, 1.0, scale)
    codes = tl.div_rn(values, scale + tl.zeros_like(values)) + ROUNDER - ROUNDER
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0)
    tl.store(code_ptr + row * K + column, codes.to(tl.int8), mask=mask)
    tl.store(scale_ptr + row, scale)
    tl.store(sum_ptr + row, tl.sum(codes.to(tl.int32), 0))


def num_warps(columns: int) -> int:
    """Of a program with a row of so many columns: about sixteen a thread."""
    return 1 << min(max((columns - 1).bit_length() - 9, 0), 4)
