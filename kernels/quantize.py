"""Per-token INT8 quantization of activations.

``s = max|x| / 127`` (0 -> 1) and ``q = clamp(round_half_even(x / s), -127, 127)``, a row at a time.
Symmetric, so that a GEMM needs no correction; the sum of the codes lets a weight's zero point
leave through the GEMM's epilogue (QServe, arXiv 2405.04532, section 5.2, there over the raw row).
4 bits, 7 in the place of 127 and still in bytes, exist for comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Tensors, because a Python number would be made into one at every call: 2.2 us against 0.8.
MAX_CODE = {8: torch.tensor(127.0), 4: torch.tensor(7.0)}


class QuantizedActivations(NamedTuple):
    """``codes`` int8 ``[M, K]`` and ``scales`` fp32 ``[M, 1]``; the value is their product."""

    codes: Tensor
    scales: Tensor

    @property
    def sums(self) -> Tensor:
        """Sum of each row's codes, int32 ``[M]``."""
        return self.codes.sum(dim=-1, dtype=torch.int32)


def quantize_activations(x: Tensor, bits: int = 8) -> QuantizedActivations:
    """Quantize floating-point ``[M, K]`` row by row to 8 bits, or to 4.

    The clamp matters where a scale is denormal: rounded down to the next step, it may be a third
    short of ``max|x| / 127``.

    Raises:
        ValueError: ``x`` is not a floating-point matrix.
    """
    _check(x)
    x = x.float()
    if x.shape[1] == 0:
        return QuantizedActivations(x.to(torch.int8), x.new_ones(x.shape[0], 1))
    scales = x.abs().amax(dim=-1, keepdim=True).div_(MAX_CODE[bits])
    scales.masked_fill_(scales.logical_not(), 1.0)
    limit = 2 ** (bits - 1) - 1
    codes = (x / scales).round_().clamp_(-limit, limit)
    return QuantizedActivations(codes.to(torch.int8), scales)


def quantize_activations_reference(x: Tensor, bits: int = 8) -> QuantizedActivations:
    _check(x)
    limit = 2 ** (bits - 1) - 1
    x = x.float()
    largest = torch.cat((x.abs(), x.new_zeros(x.shape[0], 1)), dim=1).amax(dim=1, keepdim=True)
    scales = torch.where(largest / limit == 0, torch.ones_like(largest), largest / limit)
    codes = torch.clamp(torch.round(x / scales), -limit, limit)
    return QuantizedActivations(codes.to(torch.int8), scales)


def _check(x: Tensor) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floating point [M, K], got {x.dtype} {list(x.shape)}")
