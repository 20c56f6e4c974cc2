"""Where a step's tokens go in the cache, and what their positions are to RoPE: one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from qoq.kernels.kv_cache import SlotMapping

_BLOCK = 512


class LocatedTokens(NamedTuple):
    """``rope`` fp32 ``[M, 3, D / 2]``; ``tables`` int32 ``[N, max_blocks]`` of the first tokens."""

    slots: SlotMapping
    rope: Tensor
    tables: Tensor


def locate_tokens(
    requests: Tensor,
    positions: Tensor,
    block_tables: Tensor,
    rope_table: Tensor,
    block_size: int,
    num_tables: int,
) -> LocatedTokens:
    """Of tokens at ``positions`` int64 ``[M]`` of rows ``requests`` int64 ``[M]`` of the tables.

    ``block_tables`` int32 ``[R, max_blocks]``, ``rope_table`` fp32 ``[P, 3, D / 2]``. A position
    or a row out of range is the nearest one.

    Raises:
        ValueError: a shape or dtype does not match; the message names the tensor.
    """
    _check(requests, positions, block_tables, rope_table)
    m, device = len(requests), requests.device
    width = block_tables.shape[1]
    out = LocatedTokens(
        SlotMapping(*torch.empty(2, m, dtype=torch.int64, device=device).unbind()),
        torch.empty(m, *rope_table.shape[1:], device=device),
        torch.empty(num_tables, width, dtype=torch.int32, device=device),
    )
    if m:
        _locate_kernel[(m,)](
            requests,
            positions,
            block_tables,
            rope_table,
            *out.slots,
            out.rope,
            out.tables,
            block_tables.shape[0],
            width,
            rope_table.shape[0],
            num_tables,
            COLUMNS=rope_table[0].numel(),
            BLOCK_SIZE=block_size,
            BLOCK=_BLOCK,
            num_warps=4,
        )
    return out


@triton.jit(do_not_specialize=["num_tables"])
def _locate_kernel(
    request_ptr,
    position_ptr,
    table_ptr,
    rope_ptr,
    block_ptr,
    offset_ptr,
    row_ptr,
    copy_ptr,
    num_requests,
    width,
    num_positions,
    num_tables,
    COLUMNS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    request = tl.load(request_ptr + token)
    request = tl.minimum(tl.maximum(request, 0), num_requests - 1)
    position = tl.load(position_ptr + token)
    position = tl.minimum(tl.maximum(position, 0), num_positions - 1)
    table = table_ptr + request * width
    index = tl.minimum(position // BLOCK_SIZE, width - 1)
    tl.store(block_ptr + token, tl.load(table + index).to(tl.int64))
    tl.store(offset_ptr + token, position % BLOCK_SIZE)
    column = tl.arange(0, BLOCK)
    for start in tl.static_range(0, COLUMNS, BLOCK):
        mask = start + column < COLUMNS
        values = tl.load(rope_ptr + position * COLUMNS + start + column, mask=mask)
        tl.store(row_ptr + token * COLUMNS + start + column, values, mask=mask)
    if token < num_tables:
        for first in range(0, width, BLOCK):
            in_table = first + column < width
            blocks = tl.load(table + first + column, mask=in_table)
            tl.store(copy_ptr + token * width + first + column, blocks, mask=in_table)


def _check(requests: Tensor, positions: Tensor, block_tables: Tensor, rope_table: Tensor) -> None:
    for name, tensor in (("requests", requests), ("positions", positions)):
        if tensor.shape != (len(requests),) or tensor.dtype != torch.int64:
            raise ValueError(
                f"{name}: expected int64 [{len(requests)}], got {tensor.dtype} {list(tensor.shape)}"
            )
    if block_tables.dtype != torch.int32 or not block_tables.is_contiguous():
        raise ValueError(f"block_tables: expected contiguous int32, got {block_tables.dtype}")
    if rope_table.dtype != torch.float32 or not rope_table.is_contiguous():
        raise ValueError(f"rope_table: expected contiguous float32, got {rope_table.dtype}")
