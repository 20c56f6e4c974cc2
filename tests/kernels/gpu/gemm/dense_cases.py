"""Operands of the dense GEMM on a device, and how far its results may lie from float64."""

from __future__ import annotations

import torch
from torch import Tensor

U16 = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 0.0}
U32 = 2**-24


def strided_rows(m: int, k: int, dtype: torch.dtype, device: str) -> Tensor:
    """What lies between the rows is NaN."""
    wide = torch.full((m, k + 64), torch.nan, dtype=dtype, device=device)
    wide[:, :k] = torch.randn(m, k, device=device)
    return wide[:, :k]


def assert_within_bounds(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Products are exact; a matrix unit that truncates loses four roundoffs in a sum at most."""
    wide, columns = x.double(), weight.double().t()
    expected, sizes = wide @ columns, wide.abs() @ columns.abs()
    if bias is not None:
        expected += bias.double()
        sizes += bias.double().abs()
    bound = (x.shape[1] + 8) * 4 * U32 * sizes + U16[y.dtype] * expected.abs()
    excess = (y.double() - expected).abs() - bound
    assert (excess <= 0).all(), f"{list(x.shape)} by {list(weight.shape)}: {excess.max():.2e} over"
