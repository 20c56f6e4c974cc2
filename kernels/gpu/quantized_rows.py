"""INT8 quantization of a row that a Triton kernel holds, bit for bit as ``quantize_activations``.

Divisions are IEEE's: an approximate one would move codes that lie near a half.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.sizes import next_power_of_2, round_up
from qoq.kernels.quantize import QuantizedActivations

# Adding and taking away 1.5 * 2 ** 23 rounds half to even whatever is far smaller.
ROUNDER = tl.constexpr(12582912.0)
ROUNDER_BITS = tl.constexpr(0x4B400000)
# Scales above it keep all that a division needs clear of underflow.
TINY = tl.constexpr(2.0**-80)
MOST_ROWS = 256  # of a GEMM's tile


class QuantizedRows(NamedTuple):
    """Room for ``codes`` int8 ``[M, K]``, ``scales`` fp32 ``[M, 1]``, ``sums`` int32 ``[M]``.

    Behind the last row there is memory for whole tiles of a GEMM: what TMA fetches partly from
    beyond a tensor takes up to 1.3 times as long.
    """

    codes: Tensor
    scales: Tensor
    sums: Tensor

    @classmethod
    def allocate(cls, m: int, k: int, device: torch.device) -> QuantizedRows:
        room = next_power_of_2(m) if m <= MOST_ROWS else round_up(m, MOST_ROWS)
        return cls(
            torch.empty(room, k, dtype=torch.int8, device=device)[:m],
            torch.empty(room, 1, device=device)[:m],
            torch.empty(room, dtype=torch.int32, device=device)[:m],
        )

    def rows(self, start: int, stop: int) -> QuantizedRows:
        """A view of some rows."""
        return QuantizedRows(*(part[start:stop] for part in self))

    @property
    def activations(self) -> QuantizedActivations:
        return QuantizedActivations(self.codes, self.scales)


def quantize_rows(x: Tensor, out: QuantizedRows) -> None:
    """``x`` ``[M, K]`` into ``out``.

    Raises:
        ValueError: rows of ``x`` are not contiguous, or ``out`` has another shape.
    """
    if x.dim() != 2 or x.stride(1) != 1:
        raise ValueError(f"x: expected [M, K], rows contiguous, got {list(x.shape)}")
    if out.codes.shape != x.shape:
        raise ValueError(f"out: expected {list(x.shape)}, got {list(out.codes.shape)}")
    m, k = x.shape
    if m:
        _quantize_rows_kernel[(m,)](
            x,
            *out,
            x.stride(0),
            K=k,
            BLOCK=next_power_of_2(k),
            num_warps=num_warps(k, m),
            enable_fp_fusion=False,
            **overlap_options(x.device),
        )


@triton.jit
def _quantize_rows_kernel(
    x_ptr,
    code_ptr,
    scale_ptr,
    sum_ptr,
    stride_x,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < K
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    x = tl.load(x_ptr + row * stride_x + column, mask=mask, other=0.0).to(tl.float32)
    store_quantized(x, row, column, mask, code_ptr, scale_ptr, sum_ptr, K)


@triton.jit
def store_quantized(values, row, column, mask, code_ptr, scale_ptr, sum_ptr, K: tl.constexpr):
    """``values`` fp32 of one row, of any shape, 0 where ``mask`` is False."""
    scale = tl.div_rn(tl.max(tl.abs(values)), 127.0)
    scale = tl.where(scale == 0, 1.0, scale)
    if scale > TINY:
        codes = (_divide(values, scale) + ROUNDER).to(tl.int32, bitcast=True) - ROUNDER_BITS
    else:
        quotients = tl.div_rn(values, scale + tl.zeros_like(values)) + ROUNDER - ROUNDER
        codes = tl.minimum(tl.maximum(quotients, -127.0), 127.0).to(tl.int32)
    tl.store(code_ptr + row * K + column, codes.to(tl.int8), mask=mask)
    tl.store(scale_ptr + row, scale)
    tl.store(sum_ptr + row, tl.sum(codes))


@triton.jit
def _divide(values, scale):
    """``values / scale`` as IEEE rounds it, in half of a division's instructions.

    The first correction leaves an error below one last place, the second then rounds correctly
    (Markstein, IBM J. Res. Dev. 34(1), 1990, theorem 8.1), where nothing underflows.
    """
    inverse = tl.div_rn(1.0, scale) + tl.zeros_like(values)
    scale += tl.zeros_like(values)
    near = values * inverse
    near = tl.fma(tl.fma(-near, scale, values), inverse, near)
    return tl.fma(tl.fma(-near, scale, values), inverse, near)


def num_warps(columns: int, rows: int) -> int:
    """Of a program with a row of so many columns: about sixteen a thread.

    Where there are more rows than multiprocessors, two long ones share one.
    """
    most = 5 if rows <= 132 else 4
    return 1 << min(max((columns - 1).bit_length() - 9, 0), most)
