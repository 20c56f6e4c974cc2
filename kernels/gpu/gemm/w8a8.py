"""W8A8 GEMM in Triton, for every GPU from sm_80 on: ``y = float(x @ w.T) * (s_x * s_w)``.

The definition is ``int8_gemm``; the bits are the same at every M. The weight stays as a checkpoint
has it. Serves ``w8a8kv8`` and an INT8 lm_head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.gemm.gemm_tile import place_tile, store_scaled, sum_splits
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace, check_inputs
from qoq.kernels.gpu.overlap import launch_options
from qoq.kernels.gpu.sizes import cdiv
from qoq.kernels.quantize import QuantizedActivations

STEP = 128  # input channels a stage


def w8a8_config(m: int, arch: int) -> TileConfig:
    """For ``m`` tokens on compute capability ``arch``."""
    overlaps = arch >= 90
    if m <= 16:
        return TileConfig(16, 64, 4, 6, 1, overlaps)
    if m <= 64:
        return TileConfig(64, 64, 4, 5, 1, overlaps)
    return TileConfig(128, 128, 8, 3, 1, overlaps)


def w8a8_gemm_triton(
    x: QuantizedActivations,
    weight: Tensor,
    weight_scales: Tensor,
    config: TileConfig,
    workspace: Workspace,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    out: Tensor | None = None,
) -> Tensor:
    """``[M, K]`` codes by int8 ``weight`` ``[N, K]`` with fp32 ``weight_scales`` ``[N]``.

    ``bias`` ``[N]`` is added in fp32. Returns ``[M, N]`` in ``out_dtype``: ``out``, where given.

    Raises:
        ValueError: a shape, dtype or device does not match; the message names the tensor.
    """
    _check(x, weight, weight_scales, bias)
    m, (n, k) = x.codes.shape[0], weight.shape
    y = torch.empty(m, n, dtype=out_dtype, device=weight.device) if out is None else out
    if y.shape != (m, n) or y.dtype != out_dtype or not y.is_contiguous():
        raise ValueError(f"out: expected contiguous {out_dtype} [{m}, {n}], got {list(y.shape)}")
    if m == 0:
        return y
    steps = cdiv(k, STEP)
    split_k = max(i for i in range(1, config.split_k + 1) if steps % i == 0)
    tiles = cdiv(m, config.block_m) * cdiv(n, config.block_n)
    if not workspace.fits(tiles, tiles * config.block_m * config.block_n * split_k):
        split_k = 1
    _w8a8_gemm_kernel[(tiles, split_k)](
        x.codes,
        weight,
        x.scales,
        weight_scales,
        weight_scales if bias is None else bias,
        y,
        workspace.partials,
        workspace.counters,
        m,
        n,
        k,
        x.codes.stride(0),
        STEPS=steps // split_k,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        SPLIT_K=split_k,
        HAS_BIAS=bias is not None,
        MASK_K=k % STEP != 0,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(config.overlaps),
    )
    return y


@triton.jit
def _w8a8_gemm_kernel(
    x_ptr,
    w_ptr,
    x_scale_ptr,
    w_scale_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    K,
    stride_x,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK_K: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    tile = tl.program_id(0)
    split = tl.program_id(1)
    tile_m, tile_n = place_tile(tile, M, N, BLOCK_M, BLOCK_N)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = split * STEPS * 128 + tl.arange(0, 128)
    # Rows and columns past the end read the first one; they are not stored.
    x_ptrs = x_ptr + tl.where(row < M, row, 0)[None, :].to(tl.int64) * stride_x + depth[:, None]
    w_ptrs = w_ptr + tl.where(column < N, column, 0)[:, None].to(tl.int64) * K + depth[None, :]
    if OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for step in range(STEPS):
        if MASK_K:
            in_k = depth + step * 128 < K
            w = tl.load(w_ptrs, mask=in_k[None, :], other=0)
            x = tl.load(x_ptrs, mask=in_k[:, None], other=0)
        else:
            w = tl.load(w_ptrs)
            x = tl.load(x_ptrs)
        acc = tl.dot(w, x, acc, out_dtype=tl.int32)
        w_ptrs += 128
        x_ptrs += 128
    acc, is_last = sum_splits(acc, partial_ptr, counter_ptr, tile, split, BLOCK_M, BLOCK_N, SPLIT_K)
    if is_last:
        store_scaled(acc, row, tile_n, x_scale_ptr, w_scale_ptr, bias_ptr, y_ptr, M, N, HAS_BIAS)


def _check(
    x: QuantizedActivations, weight: Tensor, weight_scales: Tensor, bias: Tensor | None
) -> None:
    if weight.dim() != 2 or weight.dtype != torch.int8 or not weight.is_contiguous():
        raise ValueError(
            f"weight: expected contiguous int8 [N, K], got {weight.dtype} {list(weight.shape)} "
            f"with strides {list(weight.stride())}"
        )
    n, k = weight.shape
    if weight_scales.dtype != torch.float32 or weight_scales.shape != (n,):
        raise ValueError(
            f"weight_scales: expected float32 [{n}], "
            f"got {weight_scales.dtype} {list(weight_scales.shape)}"
        )
    if weight_scales.device != weight.device:
        raise ValueError(f"weight_scales: expected on {weight.device}, got {weight_scales.device}")
    check_inputs(x, bias, n, k, weight.device)
