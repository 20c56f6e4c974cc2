"""``add_rms_norm`` and ``add_rms_norm_quantize`` on a GPU: a program has a row, which is read and
written once.

Rounded where the definition rounds. The mean of squares sums in another order, so a value may be
off by one rounding of its dtype, and a code by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.quantized_rows import QuantizedRows, num_warps, store_quantized
from qoq.kernels.gpu.sizes import next_power_of_2


def add_rms_norm_quantize_triton(
    x: Tensor | None, residual: Tensor, gain: Tensor, eps: float
) -> QuantizedRows:
    """Add ``x`` ``[M, K]`` to ``residual`` in place (None adds nothing); the norm, quantized.

    Raises:
        ValueError: a shape does not match or rows are not contiguous; the message names the tensor.
    """
    _check(x, residual, gain)
    m, k = residual.shape
    out = QuantizedRows.allocate(m, k, residual.device)
    _launch(_add_rms_norm_quantize_kernel, x, residual, gain, out, eps)
    return out


def add_rms_norm_triton(x: Tensor | None, residual: Tensor, gain: Tensor, eps: float) -> Tensor:
    """As ``add_rms_norm_quantize_triton``, with the norm ``[M, K]`` as it is, in its dtype."""
    _check(x, residual, gain)
    out = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
    _launch(_add_rms_norm_kernel, x, residual, gain, (out,), eps)
    return out


def _launch(
    kernel: Any, x: Tensor | None, residual: Tensor, gain: Tensor, out: Iterable[Tensor], eps: float
) -> None:
    m, k = residual.shape
    if m:
        kernel[(m,)](
            residual if x is None else x,
            residual,
            gain,
            *out,
            residual.stride(0) if x is None else x.stride(0),
            residual.stride(0),
            eps,
            K=k,
            BLOCK=next_power_of_2(k),
            ADDS=x is not None,
            num_warps=num_warps(k, m),
            enable_fp_fusion=False,
            **overlap_options(residual.device),
        )


@triton.jit
def rms_norm_row(values, gain, eps, K: tl.constexpr, DTYPE: tl.constexpr):
    """Fp32 values of a row of ``K``, 0 past its end, rounded to ``DTYPE`` before and after gain."""
    mean = tl.div_rn(tl.sum(values * values, 0), K * 1.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))
    normed = (values * scale).to(DTYPE).to(tl.float32)
    return (normed * gain.to(tl.float32)).to(DTYPE).to(tl.float32)


@triton.jit
def _add_rms_norm_quantize_kernel(
    x_ptr,
    residual_ptr,
    gain_ptr,
    code_ptr,
    scale_ptr,
    sum_ptr,
    stride_x,
    stride_residual,
    eps,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < K
    normed = _normed(
        x_ptr + row * stride_x + column,
        residual_ptr + row * stride_residual + column,
        gain_ptr + column,
        mask,
        eps,
        K,
        ADDS,
        OVERLAPS,
    )
    store_quantized(normed, row, column, mask, code_ptr, scale_ptr, sum_ptr, K)


@triton.jit
def _add_rms_norm_kernel(
    x_ptr,
    residual_ptr,
    gain_ptr,
    out_ptr,
    stride_x,
    stride_residual,
    eps,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < K
    normed = _normed(
        x_ptr + row * stride_x + column,
        residual_ptr + row * stride_residual + column,
        gain_ptr + column,
        mask,
        eps,
        K,
        ADDS,
        OVERLAPS,
    )
    tl.store(out_ptr + row * K + column, normed.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _normed(
    x_ptrs,
    residual_ptrs,
    gain_ptrs,
    mask,
    eps,
    K: tl.constexpr,
    ADDS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """The norm of a residual row in fp32, with ``x`` added to the row in place."""
    gain = tl.load(gain_ptrs, mask=mask, other=0.0)
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    residual = tl.load(residual_ptrs, mask=mask, other=0.0)
    if ADDS:
        x = tl.load(x_ptrs, mask=mask, other=0.0)
        residual = (residual.to(tl.float32) + x.to(tl.float32)).to(residual.dtype)
        tl.store(residual_ptrs, residual, mask=mask)
    return rms_norm_row(residual.to(tl.float32), gain, eps, K, residual.dtype)


def _check(x: Tensor | None, residual: Tensor, gain: Tensor) -> None:
    if residual.dim() != 2 or residual.stride(1) != 1:
        raise ValueError(
            f"residual: expected [M, K], rows contiguous, got {list(residual.shape)} "
            f"with strides {residual.stride()}"
        )
    if gain.shape != residual.shape[1:]:
        raise ValueError(f"gain: expected {list(residual.shape[1:])}, got {list(gain.shape)}")
    if x is not None and (x.shape != residual.shape or x.stride(1) != 1):
        raise ValueError(
            f"x: expected {list(residual.shape)}, rows contiguous, got {list(x.shape)} "
            f"with strides {x.stride()}"
        )
