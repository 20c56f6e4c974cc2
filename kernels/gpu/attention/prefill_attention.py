"""Causal attention of many tokens a request over the paged, quantized KV cache, from sm_80 on.

Blocks of the contexts are dequantized once into a scratch, and attention then runs at the speed of
an fp16 one: unpacking in the loop would be done anew for every 128 rows of queries. The step's own
tokens are read from the cache too, and a row's tiles have their places in the context: results
depend on neither chunk nor company. They are not those of decode attention, which folds partitions.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from qoq.kernels.gpu.attention.dequantize_kv import dequantize_blocks
from qoq.kernels.gpu.attention.prefill_gluon import HopperPrefill, attend_hopper
from qoq.kernels.gpu.attention.prefill_plan import BLOCK, PrefillPlan
from qoq.kernels.gpu.attention.prefill_triton import PrefillTile, attend_triton
from qoq.kernels.kv_cache import KvCache, KvFormat

# Of the scratch. Contexts that need more are attended to some kv heads at a time.
SCRATCH_BYTES = 512 << 20

# By columns of the scratch. GPUs of 99 KB of shared memory a block take the last ones.
_CONFIGS: dict[int, dict[int, PrefillTile | HopperPrefill]] = {
    90: {64: HopperPrefill(128, 4), 128: HopperPrefill(128, 2), 256: HopperPrefill(64, 2)},
    80: {64: PrefillTile(64, 8, 3), 128: PrefillTile(64, 8, 3), 256: PrefillTile(32, 8, 3)},
}
_SMALL_MEMORY: dict[int, PrefillTile | HopperPrefill] = {
    64: PrefillTile(64, 8, 2),
    128: PrefillTile(64, 8, 2),
    256: PrefillTile(16, 8, 2),
}


def prefill_attention(
    q: Tensor,
    cache: KvCache,
    block_tables: Tensor,
    plan: PrefillPlan,
    fmt: KvFormat,
    softmax_scale: float,
    config: PrefillTile | HopperPrefill | None = None,
) -> Tensor:
    """``q`` ``[M, Hq, D]``, the same shape back, as ``plan``, on the same device, has it.

    ``block_tables`` int32 ``[R, max_blocks]``. A block id outside the cache reads some other block.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(q, cache, block_tables, plan, fmt)
    out = torch.empty_like(q)
    if plan.num_programs == 0:
        return out
    config = config or prefill_config(fmt.head_dim, _arch(q))
    passes = _passes(plan.num_rows, fmt)
    width = scratch_width(fmt.head_dim)
    scratch = q.new_empty(2 * len(passes[0]) * plan.num_rows, width, dtype=torch.float16)
    for heads in passes:
        dequantize_blocks(cache, block_tables, plan.blocks, heads, fmt, scratch)
        if isinstance(config, HopperPrefill):
            attend_hopper(q, scratch, plan, heads, fmt, softmax_scale, config, out)
        else:
            attend_triton(q, scratch, plan, heads, fmt, softmax_scale, config, out)
    return out


def prefill_config(head_dim: int, arch: int) -> PrefillTile | HopperPrefill:
    """For compute capability ``arch``, such as 90."""
    return _CONFIGS.get(arch, _SMALL_MEMORY)[scratch_width(head_dim)]


def scratch_width(head_dim: int) -> int:
    """Columns of the scratch: what the matrix unit and its swizzle take."""
    return max(64, 1 << (head_dim - 1).bit_length())


def _passes(num_rows: int, fmt: KvFormat) -> list[range]:
    """Kv heads of each pass."""
    head_bytes = 2 * num_rows * scratch_width(fmt.head_dim) * 2
    num_passes = ceil(fmt.num_kv_heads / max(SCRATCH_BYTES // head_bytes, 1))
    step = ceil(fmt.num_kv_heads / num_passes)
    starts = range(0, fmt.num_kv_heads, step)
    return [range(start, min(start + step, fmt.num_kv_heads)) for start in starts]


def _arch(q: Tensor) -> int:
    major, minor = torch.cuda.get_device_capability(q.device) if q.is_cuda else (8, 0)
    return 10 * major + minor


def _check(
    q: Tensor, cache: KvCache, block_tables: Tensor, plan: PrefillPlan, fmt: KvFormat
) -> None:
    if fmt.bits is None or fmt.block_size != BLOCK:
        raise ValueError(f"fmt: expected 4 or 8 bits and blocks of {BLOCK}, got {fmt}")
    if fmt.head_dim % 16 or fmt.head_dim > 256:
        raise ValueError(f"head_dim: expected a multiple of 16 up to 256, got {fmt.head_dim}")
    shape = (plan.num_tokens, plan.num_heads, fmt.head_dim)
    if q.shape != shape or not q.is_contiguous():
        raise ValueError(f"q: expected contiguous {list(shape)}, got {list(q.shape)}")
    if q.shape[1] % fmt.num_kv_heads:
        raise ValueError(f"q: {q.shape[1]} heads do not share {fmt.num_kv_heads} kv heads")
    if not cache.blocks.is_contiguous() or cache.blocks.shape[1] != fmt.block_elements:
        raise ValueError(
            f"cache: expected contiguous [num_blocks, {fmt.block_elements}], "
            f"got {list(cache.blocks.shape)}"
        )
    if (
        block_tables.dtype != torch.int32
        or block_tables.dim() != 2
        or not block_tables.is_contiguous()
    ):
        raise ValueError(
            "block_tables: expected a contiguous int32 matrix, "
            f"got {block_tables.dtype} {list(block_tables.shape)}"
        )
