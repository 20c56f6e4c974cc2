"""Per-token INT8 quantization of activations.

``s = max|x| / 127`` (0 -> 1) and ``q = clamp(round_half_even(x / s), -127, 127)``, a row at a time.
Symmetric, so that a GEMM needs no correction; the sum of the codes lets a weight's zero point
leave through the GEMM's epilogue (QServe, arXiv 2405.04532, section 5.2, there over the raw row).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class QuantizedActivations(NamedTuple):
    """``codes`` int8 ``[M, K]`` and ``scales`` fp32 ``[M, 1]``; the value is their product."""

    codes: Tensor
    scales: Tensor

    @property
    def sums(self) -> Tensor:
        """Sum of each row's codes, int32 ``[M]``."""
        return self.codes.sum(dim=-1, dtype=torch.int32)


def quantize_activations(x: Tensor) -> QuantizedActivations:
    """Quantize floating-point ``[M, K]`` row by row.

    No clamp is needed: ``fl(m / fl(m / 127))`` is at most one rounding step past 127 and rounds
    back to it.

    Raises:
        ValueError: ``x`` is not a floating-point matrix.
    """
    _check(x)
    x = x.float()
    if x.shape[1] == 0:
        return QuantizedActivations(x.to(torch.int8), x.new_ones(x.shape[0], 1))
    scales = x.abs().amax(dim=-1, keepdim=True).div_(127.0)
    scales.masked_fill_(scales == 0, 1.0)
    return QuantizedActivations((x / scales).round_().to(torch.int8), scales)


def quantize_activations_reference(x: Tensor) -> QuantizedActivations:
    _check(x)
    x = x.float()
    largest = torch.cat((x.abs(), x.new_zeros(x.shape[0], 1)), dim=1).amax(dim=1, keepdim=True)
    scales = torch.where(largest / 127 == 0, torch.ones_like(largest), largest / 127)
    codes = torch.clamp(torch.round(x / scales), -127, 127)
    return QuantizedActivations(codes.to(torch.int8), scales)


def _check(x: Tensor) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floating point [M, K], got {x.dtype} {list(x.shape)}")
