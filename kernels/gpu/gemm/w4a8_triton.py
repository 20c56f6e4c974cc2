"""W4A8 GEMM in Triton, for every GPU from sm_80 on: ``y = float(x @ W8'.T) * (s_x * s_w)``.

Weights are operand A of the matrix unit and are dequantized in registers: four codes in a 32-bit
word, ``(w * s + (b + 128) * 0x01010101) ^ 0x80808080``, one multiply-add and one xor, exact for
every legal scale and offset (DESIGN section 3). Activations come through shared memory.

K may be split over CTAs. A split leaves its int32 partial sums in a workspace, the last one of a
tile to arrive adds them up: integers, so the bits depend on neither order nor split. A launch
leaves the workspace as it found it (CUDA graphs).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.gemm.gemm_tile import place_tile, store_scaled, sum_splits
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace, check_operands
from qoq.kernels.gpu.gemm.w4a8_weight import ROWS, STEP, W4A8Weight
from qoq.kernels.gpu.overlap import launch_options
from qoq.kernels.gpu.sizes import cdiv
from qoq.kernels.quantize import QuantizedActivations


def w4a8_gemm_triton(
    x: QuantizedActivations,
    weight: W4A8Weight,
    config: TileConfig,
    workspace: Workspace,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    x_sums: Tensor | None = None,
) -> Tensor:
    """``[M, K]`` codes, rows contiguous, by ``weight``; ``[M, N]`` in ``out_dtype``.

    A gated weight gives ``silu(gate) * up`` ``[M, N / 2]``, with the bits that ``silu_mul`` makes
    of both rounded to ``out_dtype``. ``bias`` ``[N]``, in the order of the weight's rows, is added
    in fp32. ``x_sums`` int32 ``[M]`` are the sums of the codes, which a weight with zero points
    needs; they are computed where they are not given.

    Raises:
        ValueError: a shape, dtype or device does not match; the message names the tensor.
    """
    check_operands(x, weight, bias)
    if config.block_n not in (ROWS, 2 * ROWS):
        raise ValueError(f"block_n: expected {ROWS} or {2 * ROWS}, got {config.block_n}")
    m, n = x.codes.shape[0], weight.n
    y = torch.empty(m, weight.num_outputs, dtype=out_dtype, device=x.codes.device)
    if m == 0:
        return y
    num_steps = weight.boxes.shape[1]
    split_k = max(i for i in range(1, config.split_k + 1) if num_steps % i == 0)
    tiles = cdiv(m, config.block_m) * cdiv(n, config.block_n)
    if not workspace.fits(tiles, tiles * config.block_m * config.block_n * split_k):
        split_k = 1
    per_channel = weight.zeros is not None
    if per_channel and x_sums is None:
        x_sums = x.sums
    _w4a8_gemm_kernel[(tiles, split_k)](
        x.codes,
        weight.boxes,
        weight.boxes if weight.groups is None else weight.groups,
        x.scales,
        weight.scales,
        x_sums if per_channel else x.codes,
        weight.zeros if per_channel else x.codes,
        x.codes if bias is None else bias,
        y,
        workspace.partials,
        workspace.counters,
        m,
        n,
        weight.k,
        x.codes.stride(0),
        STEPS=num_steps // split_k,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        GROUPS=weight.groups_per_step,
        SPLIT_K=split_k,
        HAS_BIAS=bias is not None,
        IS_GATED=weight.is_gated,
        MASK_K=weight.k % STEP != 0,
        ASSEMBLY=x.codes.is_cuda,
        NUM_THREADS=config.num_warps * 32,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **launch_options(config.overlaps),
    )
    return y


@triton.jit
def _dequantize(w, scale, offset, HIGH: tl.constexpr, ASSEMBLY: tl.constexpr):
    """Low or high nibbles of uint8 ``w`` as int8 ``q * scale + offset - 128``."""
    if not ASSEMBLY:
        codes = w >> 4 if HIGH else w & 15
        return (codes.to(tl.int32) * scale + offset - 128).to(tl.int8)
    TAKE: tl.constexpr = "shr.u32 t, $1, 4; and.b32 t, t," if HIGH else "and.b32 t, $1,"
    return tl.inline_asm_elementwise(
        "{ .reg .b32 t; "
        + TAKE
        + " 0x0F0F0F0F; mad.lo.u32 t, t, $2, $6; xor.b32 $0, t, 0x80808080; }",
        "=r,r,r,r,r,r,r,r,r,r",
        [w, scale, offset * 0x01010101],
        dtype=tl.int8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def _split_nibbles(w, ASSEMBLY: tl.constexpr):
    """The codes themselves, int8, low and high nibbles."""
    if not ASSEMBLY:
        return (w & 15).to(tl.int8), (w >> 4).to(tl.int8)
    low = _masked(w, "and.b32 $0, $1, 0x0F0F0F0F;")
    return low, _masked(w, "{ .reg .b32 t; shr.u32 t, $1, 4; and.b32 $0, t, 0x0F0F0F0F; }")


@triton.jit
def _masked(w, INSTRUCTIONS: tl.constexpr):
    """One result each: of several Triton 3.8 sends the second through shared memory."""
    return tl.inline_asm_elementwise(INSTRUCTIONS, "=r,r", [w], dtype=tl.int8, is_pure=True, pack=4)


@triton.jit
def _prefetch(start, NUM_THREADS: tl.constexpr):
    """Ask for 256 bytes a thread, from ``start`` on, to be brought into the L2."""
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], 256; mov.b32 $0, 0;",
        "=r,l",
        [start + tl.arange(0, NUM_THREADS) * 256],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _w4a8_gemm_kernel(
    x_ptr,
    w_ptr,
    group_ptr,
    x_scale_ptr,
    w_scale_ptr,
    x_sum_ptr,
    zero_ptr,
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
    GROUPS: tl.constexpr,
    SPLIT_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MASK_K: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    OVERLAPS: tl.constexpr,
    NUM_THREADS: tl.constexpr,
    IS_GATED: tl.constexpr = False,
):
    tile = tl.program_id(0)
    split = tl.program_id(1)
    tile_m, tile_n = place_tile(tile, M, N, BLOCK_M, BLOCK_N)

    offset_n = tl.arange(0, BLOCK_N)
    offset_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    # A half of a box lies in one group, or (32 channels a group) in two.
    WIDTH: tl.constexpr = 32 if GROUPS == 4 else 64
    half = tl.arange(0, WIDTH)
    row_m = tl.where(offset_m < M, offset_m, 0).to(tl.int64)
    box = (tile_n * (BLOCK_N // 64) + offset_n // 64).to(tl.int64)
    row = offset_n % 64

    first = split * STEPS
    w_ptrs = w_ptr + ((box * (STEPS * SPLIT_K) + first) * 64 + row)[:, None] * 64 + half[None, :]
    group_ptrs = group_ptr + (box * (STEPS * SPLIT_K) + first) * (GROUPS * 64) + row
    x_ptrs = x_ptr + row_m[None, :] * stride_x + first * 128 + half[:, None]

    if OVERLAPS:
        _prefetch(
            w_ptr + (tile_n.to(tl.int64) * (BLOCK_N // 64) * SPLIT_K * STEPS + first) * 4096,
            NUM_THREADS,
        )
        gdc_wait()
        gdc_launch_dependents()

    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for index in range(STEPS):
        for part in tl.static_range(64 // WIDTH):
            w = tl.load(w_ptrs + part * WIDTH)
            if MASK_K:
                k = (first + index) * 128 + part * WIDTH + half
                x_low = tl.load(x_ptrs + part * WIDTH, mask=(k < K)[:, None], other=0)
                x_high = tl.load(x_ptrs + 64 + part * WIDTH, mask=(k + 64 < K)[:, None], other=0)
            else:
                x_low = tl.load(x_ptrs + part * WIDTH)
                x_high = tl.load(x_ptrs + 64 + part * WIDTH)
            if GROUPS == 0:
                low, high = _split_nibbles(w, ASSEMBLY)
            else:
                group = tl.load(group_ptrs + part * 64)
                scale = tl.broadcast_to((group & 0xFF)[:, None], w.shape)
                offset = tl.broadcast_to((group >> 8)[:, None], w.shape)
                low = _dequantize(w, scale, offset, False, ASSEMBLY)
                if GROUPS > 1:
                    group = tl.load(group_ptrs + (GROUPS // 2 + part) * 64)
                    scale = tl.broadcast_to((group & 0xFF)[:, None], w.shape)
                    offset = tl.broadcast_to((group >> 8)[:, None], w.shape)
                high = _dequantize(w, scale, offset, True, ASSEMBLY)
            acc = tl.dot(low, x_low, acc, out_dtype=tl.int32)
            acc = tl.dot(high, x_high, acc, out_dtype=tl.int32)
        w_ptrs += 4096
        group_ptrs += GROUPS * 64
        x_ptrs += 128

    acc, is_last = sum_splits(acc, partial_ptr, counter_ptr, tile, split, BLOCK_M, BLOCK_N, SPLIT_K)
    if is_last:
        if GROUPS == 0:
            column = tile_n * BLOCK_N + offset_n
            zero = tl.load(zero_ptr + column, mask=column < N, other=0).to(tl.int32)
            x_sum = tl.load(x_sum_ptr + offset_m, mask=offset_m < M, other=0)
            acc -= zero[:, None] * x_sum[None, :]
        store_scaled(
            acc,
            offset_m,
            tile_n,
            x_scale_ptr,
            w_scale_ptr,
            bias_ptr,
            y_ptr,
            M,
            N,
            HAS_BIAS,
            IS_GATED,
        )
