"""Dense 16-bit GEMM in Triton, from sm_80 on: ``y = x @ w.T``, for an lm_head whose rows do not
depend on their number.

Every element is one chain of matrix instructions of 16 input channels, in the order of K, into one
fp32 accumulator. All tiles of a GPU architecture use the same instruction (``wgmma`` on Hopper,
``mma.m16n8k16`` before it), so neither M nor the tile moves a bit. K is never split: a vocabulary
has tiles enough for every multiprocessor.

Weights are operand A: the matrix unit takes at least 64 of its rows, and only 16 tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.gemm.gemm_tile import place_tile
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.overlap import launch_options
from qoq.kernels.gpu.sizes import cdiv

STEP = 64  # input channels a stage


def dense_config(m: int, arch: int) -> TileConfig:
    """For ``m`` tokens on compute capability ``arch``."""
    overlaps = arch >= 90
    if m <= 32:
        return TileConfig(16 if m <= 16 else 32, 64, 4, 6, 1, overlaps)
    if m <= 64:
        return TileConfig(64, 128, 4, 4, 1, overlaps)
    if m <= 128 or arch < 90:
        return TileConfig(128, 128, 8, 3, 1, overlaps)
    return TileConfig(256, 128, 8, 3, 1, overlaps)


def dense_gemm_triton(
    x: Tensor,
    weight: Tensor,
    config: TileConfig,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """``[M, K]``, rows contiguous, by ``weight`` ``[N, K]``, both fp16 or both bf16.

    ``bias`` ``[N]`` is added in fp32. Returns ``[M, N]`` in ``out_dtype``: ``out``, where given.

    Raises:
        ValueError: a shape, dtype or device does not match; the message names the tensor.
    """
    _check(x, weight, bias)
    if config.block_n < 64 or config.block_m < 16 or config.num_warps % 4 or config.split_k != 1:
        raise ValueError(f"config: expected the tile of one instruction for all M, got {config}")
    m, (n, k) = x.shape[0], weight.shape
    y = torch.empty(m, n, dtype=out_dtype, device=x.device) if out is None else out
    if y.shape != (m, n) or y.dtype != out_dtype or not y.is_contiguous():
        raise ValueError(f"out: expected contiguous {out_dtype} [{m}, {n}], got {list(y.shape)}")
    if m == 0:
        return y
    tiles = cdiv(m, config.block_m) * cdiv(n, config.block_n)
    _dense_gemm_kernel[(tiles,)](
        x,
        weight,
        weight if bias is None else bias,
        y,
        m,
        n,
        k,
        x.stride(0),
        STEPS=cdiv(k, STEP),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=STEP,
        HAS_BIAS=bias is not None,
        MASK_K=k % STEP != 0,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(config.overlaps),
    )
    return y


@triton.jit(do_not_specialize=["M"])
def _dense_gemm_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    M,
    N,
    K,
    stride_x,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK_K: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    tile_m, tile_n = place_tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    # Rows and columns past the end read the first one; they are not stored.
    x_ptrs = x_ptr + tl.where(row < M, row, 0)[None, :].to(tl.int64) * stride_x + depth[:, None]
    w_ptrs = w_ptr + tl.where(column < N, column, 0)[:, None].to(tl.int64) * K + depth[None, :]
    if OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for step in range(STEPS):
        if MASK_K:
            in_k = depth + step * BLOCK_K < K
            w = tl.load(w_ptrs, mask=in_k[None, :], other=0.0)
            x = tl.load(x_ptrs, mask=in_k[:, None], other=0.0)
        else:
            w = tl.load(w_ptrs)
            x = tl.load(x_ptrs)
        acc = tl.dot(w, x, acc)
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    if HAS_BIAS:
        acc += tl.load(bias_ptr + column, mask=column < N, other=0.0).to(tl.float32)[:, None]
    y_ptrs = y_ptr + row[None, :].to(tl.int64) * N + column[:, None]
    in_y = (column < N)[:, None] & (row < M)[None, :]
    tl.store(y_ptrs, acc.to(y_ptr.dtype.element_ty), mask=in_y)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2 or weight.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"weight: expected fp16 or bf16 [N, K], got {weight.dtype} {list(weight.shape)}"
        )
    if not weight.is_contiguous():
        raise ValueError(f"weight: expected contiguous, got strides {weight.stride()}")
    n, k = weight.shape
    if x.dim() != 2 or x.shape[1] != k or x.dtype != weight.dtype:
        raise ValueError(f"x: expected {weight.dtype} [M, {k}], got {x.dtype} {list(x.shape)}")
    if x.stride(1) != 1:
        raise ValueError(f"x: expected contiguous rows, got strides {x.stride()}")
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"bias: expected [{n}], got {list(bias.shape)}")
    for name, tensor in (("x", x), ("bias", bias)):
        if tensor is not None and tensor.device != weight.device:
            raise ValueError(f"{name}: expected on {weight.device}, got {tensor.device}")
