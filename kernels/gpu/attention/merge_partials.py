"""From partial attention to attention: partials fold in order, in groups, as the plan says.

Where a request has few partials, one program folds and quantizes them all, and the row never goes
to memory. Where it has many, programs have some heads each, and the last of them to arrive
quantizes the row.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.attention.decode_plan import GROUP, MERGE_ROOM, PARTITION, DecodePlan
from qoq.kernels.gpu.attention.merged_lines import merged_groups, merged_heads, request_words
from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.quantized_rows import QuantizedRows, num_warps, store_quantized
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2

# Up to so many requests, heads are worth a program each.
FEW_REQUESTS = 16
# From so many on, a program for each fills an H100's multiprocessors.
ENOUGH_REQUESTS = 128
# Elements of whole rows that a program holds besides its sums.
MAX_AHEAD = 16384
# Items that one program folds sooner than several, which have to meet.
FEW_ITEMS = tl.constexpr(8)


class MergeConfig(NamedTuple):
    """``heads`` of a program where items are many, a power of 2, or 0 for all always. ``groups``
    of such a context fold side by side, and of others ``ahead`` items load at a time.
    """

    heads: int
    groups: int
    ahead: int
    num_warps: int

    @classmethod
    def of(cls, num_requests: int, row: int) -> MergeConfig:
        """One of three, so that a model compiles three kernels at most."""
        warps = num_warps(row, rows=256)
        ahead = min(max(MAX_AHEAD // row, 1), 4)
        if num_requests <= FEW_REQUESTS:
            return cls(1, 16, ahead, max(warps, 8))
        if num_requests < ENOUGH_REQUESTS:
            return cls(4, 4, min(ahead, 2), max(warps, 8))
        return cls(0, 1, min(ahead, 2), warps)


def merge(plan: DecodePlan, out: Tensor) -> Tensor:
    """Attention of the plan's requests into ``out`` ``[R, Hq, D]``; 0 where a context is empty.

    Raises:
        ValueError: ``out`` does not match the plan.
    """
    _, num_heads, head_dim = plan.partials.shape
    if out.shape[1:] != (num_heads, head_dim) or not out.is_contiguous():
        raise ValueError(
            f"out: expected contiguous [R, {num_heads}, {head_dim}], got {list(out.shape)}"
        )
    _check_rows(out.shape[0], plan)
    if out.shape[0]:
        _launch(plan, out, None, MergeConfig.of(out.shape[0], num_heads * head_dim))
    return out


def merge_quantize(
    plan: DecodePlan, like: Tensor, out: QuantizedRows, config: MergeConfig | None = None
) -> None:
    """Attention of the first requests, rounded to the dtype of ``like``, into ``[R, Hq D]``.

    Raises:
        ValueError: the plan has fewer requests, or other heads.
    """
    _, num_heads, head_dim = plan.partials.shape
    num_requests, row = out.codes.shape
    _check_rows(num_requests, plan)
    if row != num_heads * head_dim:
        raise ValueError(f"out: expected [R, {num_heads * head_dim}], got {list(out.codes.shape)}")
    if num_requests:
        config = config or MergeConfig.of(num_requests, row)
        # Whole rows only take their dtype from it.
        merged = like.new_empty(num_requests, row) if config.heads else like
        _launch(plan, merged, out, config)


def _launch(
    plan: DecodePlan, merged: Tensor, out: QuantizedRows | None, config: MergeConfig
) -> None:
    _, num_heads, head_dim = plan.partials.shape
    num_groups = min(next_power_of_2(cdiv(plan.max_context, PARTITION * GROUP)), config.groups)
    num_requests = merged.shape[0] if out is None else out.codes.shape[0]
    assert not config.heads or num_requests * num_groups <= MERGE_ROOM
    _merge_kernel[(num_requests, cdiv(num_heads, config.heads or num_heads))](
        plan.partials,
        plan.stats,
        plan.requests,
        plan.arrivals,
        merged,
        *(out or (merged, merged, merged)),
        plan.items.shape[0],
        HEADS=num_heads,
        D=head_dim,
        LINES=next_power_of_2(num_heads),
        PER_PROGRAM=config.heads,
        GROUPS=num_groups,
        PER_GROUP=GROUP,
        AHEAD=config.ahead,
        D_BLOCK=next_power_of_2(head_dim),
        ROW_BLOCK=next_power_of_2(num_heads * head_dim),
        QUANTIZES=out is not None,
        num_warps=config.num_warps,
        **overlap_options(merged.device),
    )


@triton.jit
def _merge_kernel(
    partial_ptr,
    stat_ptr,
    request_ptr,
    arrival_ptr,
    out_ptr,
    code_ptr,
    scale_ptr,
    sum_ptr,
    NUM_ITEMS,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LINES: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    AHEAD: tl.constexpr,
    D_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    QUANTIZES: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    ROW: tl.constexpr = HEADS * D
    request = tl.program_id(0).to(tl.int64)
    row_ptr = out_ptr + request * ROW
    column = tl.arange(0, D_BLOCK)[None, :]
    if OVERLAPS:
        gdc_launch_dependents()
    # No kernel of a step writes the plan: it is read before the wait.
    words = request_words(request_ptr, request)
    is_whole = PER_PROGRAM == 0 or words[1] <= FEW_ITEMS
    if is_whole and tl.program_id(1) > 0:
        return  # the kernel ends no sooner than the first programs, which wait
    if OVERLAPS:
        gdc_wait()
    if is_whole:
        heads = tl.arange(0, LINES)[:, None]
        place, mask = heads * D + column, (heads < HEADS) & (column < D)
        row = merged_heads(partial_ptr, stat_ptr, words, heads, column, HEADS, D, AHEAD)
        row = row.to(out_ptr.dtype.element_ty)
        if QUANTIZES:
            row = tl.where(mask, row.to(tl.float32), 0.0)
            store_quantized(row, request, place, mask, code_ptr, scale_ptr, sum_ptr, ROW)
        else:
            tl.store(row_ptr + place, row, mask=mask)
    elif PER_PROGRAM > 0:
        own = NUM_ITEMS + tl.program_id(0) * GROUPS
        first = tl.program_id(1) * PER_PROGRAM
        for head in range(first, tl.minimum(first + PER_PROGRAM, HEADS)):
            values = merged_groups(
                partial_ptr, stat_ptr, words, own, head, column, HEADS, D, GROUPS, PER_GROUP
            )
            values = values.to(out_ptr.dtype.element_ty)
            tl.store(row_ptr + head * D + column, values, mask=column < D)
        if QUANTIZES:
            _quantize_last(
                row_ptr, arrival_ptr, request, code_ptr, scale_ptr, sum_ptr, ROW, ROW_BLOCK
            )


@triton.jit
def _quantize_last(
    row_ptr,
    arrival_ptr,
    request,
    code_ptr,
    scale_ptr,
    sum_ptr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """By the last of a request's programs, which sets their count back to 0 (CUDA graphs)."""
    tl.debug_barrier()
    arrival = tl.atomic_add(arrival_ptr + request, 1, sem="acq_rel")
    if arrival == tl.num_programs(1) - 1:
        tl.store(arrival_ptr + request, 0)
        column = tl.arange(0, BLOCK)
        in_row = column < ROW
        row = tl.load(row_ptr + column, mask=in_row, other=0.0, cache_modifier=".cg")
        store_quantized(
            row.to(tl.float32), request, column, in_row, code_ptr, scale_ptr, sum_ptr, ROW
        )


def _check_rows(num_requests: int, plan: DecodePlan) -> None:
    if num_requests > plan.requests.shape[0]:
        raise ValueError(f"out: {num_requests} rows, the plan has {plan.requests.shape[0]}")
