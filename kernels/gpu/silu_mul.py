"""``silu_mul_quantize`` on a GPU: a program has a row, which is read once.

The exponential and the division are the GPU's, each off by two roundings of fp32: a value may be
off by one rounding of its dtype, and a code by one.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.quantized_rows import QuantizedRows, num_warps, store_quantized
from qoq.kernels.gpu.sizes import next_power_of_2


def silu_mul_quantize_triton(gate_up: Tensor) -> QuantizedRows:
    """``[M, 2 I]``, gate first, to codes of ``silu(gate) * up`` ``[M, I]``.

    Raises:
        ValueError: ``gate_up`` is no matrix of an even width with contiguous rows.
    """
    if gate_up.dim() != 2 or gate_up.shape[1] % 2 or gate_up.stride(1) != 1:
        raise ValueError(
            f"gate_up: expected [M, 2 I], rows contiguous, got {list(gate_up.shape)} "
            f"with strides {gate_up.stride()}"
        )
    m, k = gate_up.shape[0], gate_up.shape[1] // 2
    out = QuantizedRows.allocate(m, k, gate_up.device)
    if m:
        _silu_mul_quantize_kernel[(m,)](
            gate_up,
            *out,
            gate_up.stride(0),
            K=k,
            BLOCK=next_power_of_2(k),
            num_warps=num_warps(k, m),
            enable_fp_fusion=False,
            **overlap_options(gate_up.device),
        )
    return out


@triton.jit
def _silu_mul_quantize_kernel(
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
    x_ptrs = x_ptr + row * stride_x + column
    gate = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x_ptrs + K, mask=mask, other=0.0).to(tl.float32)
    values = silu_mul(gate, up).to(x_ptr.dtype.element_ty).to(tl.float32)
    store_quantized(values, row, column, mask, code_ptr, scale_ptr, sum_ptr, K)


@triton.jit
def silu_mul(gate, up):
    """Of fp32, for Gluon too: no product here feeds a sum, so contraction changes no bit."""
    return gate / (tl.exp(-gate) + 1.0) * up
