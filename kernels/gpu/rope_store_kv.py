"""``rope_store_kv`` on a GPU, with the norm of query and key heads where a model has one.

A program has the query heads of one token, or its keys and values. The halves of a head meet in
RoPE and again in a packed byte (dimension ``d`` low, ``d + D / 2`` high), so no value changes
threads. Rounded where the definition rounds: given the same normed heads, codes, scales and queries
are the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.quantized_rows import ROUNDER
from qoq.kernels.gpu.sizes import next_power_of_2
from qoq.kernels.kv_cache import FP16_MAX, KvCache, KvFormat, SlotMapping


class HeadNorm(NamedTuple):
    """Gains ``[D]`` of query and of key heads."""

    q_gain: Tensor
    k_gain: Tensor
    eps: float


def rope_store_kv_triton(
    qkv: Tensor,
    rope: Tensor,
    cache: KvCache,
    slots: SlotMapping,
    fmt: KvFormat,
    norm: HeadNorm | None = None,
) -> Tensor:
    """Queries, keys and values ``[M, Hq + 2 H, D]``; rotated queries ``[M, Hq, D]`` come back.

    ``rope`` fp32 ``[M, 3, D / 2]`` are the rope table's rows of the tokens' positions. A token
    whose block is negative or past the cache's end writes nothing.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(qkv, rope, cache, slots, fmt)
    m, num_rows, head_dim = qkv.shape
    num_heads = num_rows - 2 * fmt.num_kv_heads
    q = torch.empty(m, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if m:
        _rope_store_kv_kernel[(m, 2)](
            qkv,
            rope,
            q if norm is None else norm.q_gain,
            q if norm is None else norm.k_gain,
            cache.blocks,
            slots.blocks,
            slots.offsets,
            q,
            cache.blocks.shape[0],
            qkv.stride(0),
            0.0 if norm is None else norm.eps,
            BITS=fmt.bits,
            D=head_dim,
            HALF=next_power_of_2(head_dim // 2),
            HEADS=num_heads,
            Q_LINES=next_power_of_2(num_heads),
            KV_HEADS=fmt.num_kv_heads,
            KV_LINES=next_power_of_2(2 * fmt.num_kv_heads),
            TILE=fmt.block_size,
            FP16_LIMIT=FP16_MAX,
            NORMS=norm is not None,
            num_warps=4,
            enable_fp_fusion=False,
            **overlap_options(qkv.device),
        )
    return q


@triton.jit
def _finite(x, LIMIT: tl.constexpr):
    """Fp16 with NaN as 1 and infinities as the largest numbers."""
    x = tl.minimum(tl.maximum(tl.where(x == x, x, 1.0), -LIMIT), LIMIT)
    return x.to(tl.float16)


@triton.jit
def _codes(x, bias, scale, LEVELS: tl.constexpr):
    codes = tl.div_rn(x - bias, scale + tl.zeros_like(x)) + ROUNDER - ROUNDER
    return tl.minimum(tl.maximum(codes, 0.0), LEVELS * 1.0).to(tl.uint8)


@triton.jit
def _load_heads(qkv, line, column, mask, D: tl.constexpr):
    """Both halves of heads, fp32 ``[L, HALF]``."""
    heads = qkv + line[:, None] * D + column[None, :]
    a = tl.load(heads, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(heads + D // 2, mask=mask, other=0.0).to(tl.float32)
    return a, b


@triton.jit
def _norm(a, b, gain_ptr, column, eps, D: tl.constexpr, DTYPE: tl.constexpr):
    in_row = column < D // 2
    mean = tl.div_rn(tl.sum(a * a + b * b, 1), D * 1.0)
    factor = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))[:, None]
    gain = tl.load(gain_ptr + column, mask=in_row, other=0.0).to(tl.float32)[None, :]
    a = ((a * factor).to(DTYPE).to(tl.float32) * gain).to(DTYPE).to(tl.float32)
    gain = tl.load(gain_ptr + D // 2 + column, mask=in_row, other=0.0).to(tl.float32)[None, :]
    b = ((b * factor).to(DTYPE).to(tl.float32) * gain).to(DTYPE).to(tl.float32)
    return a, b


@triton.jit
def _rotate(a, b, angles, column, D: tl.constexpr, DTYPE: tl.constexpr):
    cos = tl.load(angles + column, mask=column < D // 2, other=0.0)[None, :]
    sin = tl.load(angles + D + column, mask=column < D // 2, other=0.0)[None, :]
    rotated_a = (a * cos + b * -sin).to(DTYPE).to(tl.float32)
    rotated_b = (b * cos + a * sin).to(DTYPE).to(tl.float32)
    return rotated_a, rotated_b


@triton.jit
def _rope_store_kv_kernel(
    qkv_ptr,
    rope_ptr,
    q_gain_ptr,
    k_gain_ptr,
    code_ptr,
    block_ptr,
    offset_ptr,
    q_ptr,
    NUM_BLOCKS,
    stride_qkv,
    eps,
    BITS: tl.constexpr,
    D: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    Q_LINES: tl.constexpr,
    KV_HEADS: tl.constexpr,
    KV_LINES: tl.constexpr,
    TILE: tl.constexpr,
    FP16_LIMIT: tl.constexpr,
    NORMS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    LEVELS: tl.constexpr = 2**BITS - 1
    ROW: tl.constexpr = D * BITS // 8
    CODES: tl.constexpr = 2 * KV_HEADS * TILE * ROW
    BLOCK: tl.constexpr = CODES + 8 * KV_HEADS * TILE  # bytes

    token = tl.program_id(0).to(tl.int64)
    qkv = qkv_ptr + token * stride_qkv
    angles = rope_ptr + token * (3 * (D // 2))
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    column = tl.arange(0, HALF)
    in_row = (column < D // 2)[None, :]
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    if tl.program_id(1) == 0:
        head = tl.arange(0, Q_LINES)
        mask = (head < HEADS)[:, None] & in_row
        q_a, q_b = _load_heads(qkv, head, column, mask, D)
        if NORMS:
            q_a, q_b = _norm(q_a, q_b, q_gain_ptr, column, eps, D, dtype)
        q_a, q_b = _rotate(q_a, q_b, angles, column, D, dtype)
        q_ptrs = q_ptr + (token * HEADS + head)[:, None] * D + column[None, :]
        tl.store(q_ptrs, q_a.to(dtype), mask=mask)
        tl.store(q_ptrs + D // 2, q_b.to(dtype), mask=mask)
    else:
        line = tl.arange(0, KV_LINES)  # keys, then values
        is_line = line < 2 * KV_HEADS
        is_key = (line < KV_HEADS)[:, None]
        kv_mask = is_line[:, None] & in_row
        a, b = _load_heads(qkv, HEADS + line, column, kv_mask, D)
        key_a, key_b = a, b
        if NORMS:
            key_a, key_b = _norm(a, b, k_gain_ptr, column, eps, D, dtype)
        key_a, key_b = _rotate(key_a, key_b, angles, column, D, dtype)
        a, b = tl.where(is_key, key_a, a), tl.where(is_key, key_b, b)

        low = tl.min(tl.where(kv_mask, tl.minimum(a, b), float("inf")), 1)
        high = tl.max(tl.where(kv_mask, tl.maximum(a, b), float("-inf")), 1)
        scale = _finite(tl.div_rn(high - low, LEVELS * 1.0).to(tl.float16), FP16_LIMIT)
        scale = tl.where(scale == 0, 1.0, scale.to(tl.float32))
        bias = _finite(low.to(tl.float16), FP16_LIMIT).to(tl.float32)
        codes_a = _codes(a, bias[:, None], scale[:, None], LEVELS)
        codes_b = _codes(b, bias[:, None], scale[:, None], LEVELS)

        block = tl.load(block_ptr + token)
        offset = tl.load(offset_ptr + token)
        is_slot = (block >= 0) & (block < NUM_BLOCKS) & (offset >= 0) & (offset < TILE)
        code_ptrs = code_ptr + block * BLOCK + (line * TILE + offset)[:, None] * ROW
        code_ptrs += column[None, :]
        if BITS == 4:
            tl.store(code_ptrs, codes_a | (codes_b << 4), mask=kv_mask & is_slot)
        else:
            tl.store(code_ptrs, codes_a, mask=kv_mask & is_slot)
            tl.store(code_ptrs + D // 2, codes_b, mask=kv_mask & is_slot)
        scale_ptr = code_ptr.to(tl.pointer_type(tl.float16))
        scale_ptrs = scale_ptr + block * (BLOCK // 2) + CODES // 2 + line * (2 * TILE) + offset
        tl.store(scale_ptrs, scale.to(tl.float16), mask=is_line & is_slot)
        tl.store(scale_ptrs + TILE, bias.to(tl.float16), mask=is_line & is_slot)


def _check(qkv: Tensor, rope: Tensor, cache: KvCache, slots: SlotMapping, fmt: KvFormat) -> None:
    if fmt.bits is None:
        raise ValueError(f"fmt: expected 4 or 8 bits, got {fmt}")
    shape = [*qkv.shape]
    if len(shape) != 3 or shape[1] <= 2 * fmt.num_kv_heads or shape[2] != fmt.head_dim:
        raise ValueError(
            f"qkv: expected [M, Hq + {2 * fmt.num_kv_heads}, {fmt.head_dim}], got {shape}"
        )
    if qkv.stride()[1:] != (fmt.head_dim, 1):
        raise ValueError(f"qkv: expected contiguous rows, got strides {qkv.stride()}")
    expected = (shape[0], 3, fmt.head_dim // 2)
    if rope.shape != expected or rope.dtype != torch.float32 or not rope.is_contiguous():
        raise ValueError(
            f"rope: expected contiguous float32 {list(expected)}, got {rope.dtype} "
            f"{list(rope.shape)}"
        )
    for name, tensor in zip(("slots.blocks", "slots.offsets"), slots, strict=True):
        if tensor.shape != (shape[0],) or tensor.dtype != torch.int64:
            raise ValueError(
                f"{name}: expected int64 [{shape[0]}], got {tensor.dtype} {list(tensor.shape)}"
            )
    if not cache.blocks.is_contiguous() or cache.blocks.shape[1] != fmt.block_elements:
        raise ValueError(
            f"cache: expected contiguous [num_blocks, {fmt.block_elements}], "
            f"got {list(cache.blocks.shape)}"
        )
