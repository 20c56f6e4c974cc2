"""What each idea of the W4A8 kernel is worth: the portable kernel without it, in the same tiles.

Weights not reordered (whose codes are then dequantized one by one), codes dequantized one by one
instead of four in a register, and 4-bit groups
with a float scale instead of the INT8 level (QServe, arXiv 2405.04532, sections 4.1 and 5.2).
Groups are of 128 channels. Each is compared with its definition before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qoq.kernels.bench.ablation_variants import (
    byte_by_byte,
    codes_of,
    float_groups,
    random_scales,
    rows_as_stored,
    rows_of,
)
from qoq.kernels.bench.gemm import (
    L2_BYTES,
    SHAPES,
    Operands,
    device_arch,
    random_activations,
    random_weight,
    reference,
)
from qoq.kernels.bench.timing import time_us
from qoq.kernels.gpu.gemm.w4a8_config import portable_config
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_triton import w4a8_gemm_triton
from qoq.kernels.gpu.gemm.w4a8_weight import STEP, W4A8Weight
from qoq.kernels.quantize import QuantizedActivations


class Times(NamedTuple):
    """Microseconds."""

    m: int
    serving: float
    rows_as_stored: float
    byte_by_byte: float
    float_groups: float


def ablate(name: str, ms: list[int]) -> Iterator[Times]:
    """For each M. Raises AssertionError where a result differs from its definition."""
    n, k = SHAPES[name]
    operands = random_weight(n, k, STEP, max(2, -(-L2_BYTES // (n * k // 2))))
    stored = [rows_of(weight) for weight in operands.copies]
    scales = [random_scales(weight) for weight in operands.copies]
    for m in ms:
        calls = _checked_calls(random_activations(m, k), operands, stored, scales)
        yield Times(m, *(time_us(call) for call in calls))


def _checked_calls(
    x: QuantizedActivations, operands: Operands, stored: list[Tensor], scales: list[Tensor]
) -> Iterator[Callable[[int], Tensor]]:
    """Of each contender, with an index that chooses the weight."""
    weights, workspace = operands.copies, Workspace(torch.device("cuda"))
    tile, count = portable_config(x.codes.shape[0], device_arch()), len(weights)
    tile = tile._replace(overlaps=False)
    exact: list[Callable[[int], Tensor]] = [
        lambda i: w4a8_gemm_triton(x, weights[i % count], tile, workspace),
        lambda i: rows_as_stored(x, weights[i % count], stored[i % count], tile, workspace),
        lambda i: byte_by_byte(x, weights[i % count], tile, workspace),
    ]
    expected = reference(x, operands)
    for call, label in zip(exact, Times._fields[1:], strict=False):
        assert torch.equal(call(0), expected), f"{label}, {tile}: wrong result"
        yield call
    check_float_groups(
        float_groups(x, weights[0], scales[0], tile, workspace), x, weights[0], scales[0]
    )
    yield lambda i: float_groups(x, weights[i % count], scales[i % count], tile, workspace)


def check_float_groups(
    y: Tensor, x: QuantizedActivations, weight: W4A8Weight, scales: Tensor
) -> None:
    """A group's sum is exact; adding groups, splits and three factors rounds in fp32, then fp16."""
    spread = scales.transpose(1, 2).flatten(0, 1).repeat_interleave(STEP, dim=1)
    columns = (codes_of(weight).double() - 8) * 16 * spread * weight.scales[:, None]
    rows = x.codes.double() * x.scales
    for part, wide in zip(y.split(512), rows.split(512), strict=True):
        expected, sizes = wide @ columns.t(), wide.abs() @ columns.abs().t()
        bound = (scales.shape[1] + 12) * 2**-24 * sizes + 2**-11 * expected.abs() + 2**-25
        assert ((part - expected).abs() <= bound).all(), "float_groups: wrong result"
