"""From partial attention to attention: partials fold in order, in groups, as the plan says.

A program merges some heads of a request. For ``merge_quantize`` the last of a request's programs to
arrive quantizes the row; where requests are many, one program has all heads, and the row never goes
to memory.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.attention.decode_plan import GROUP, PARTITION, DecodePlan
from qoq.kernels.gpu.attention.merged_lines import merged_columns, merged_heads, request_words
from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.quantized_rows import QuantizedRows, num_warps, store_quantized
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2

# Up to so many requests, heads are worth a program each.
FEW_REQUESTS = 16
# From so many on, a program for each fills an H100's multiprocessors.
ENOUGH_REQUESTS = 132
# At one a thread of four warps.
COLUMNS = tl.constexpr(128)


class MergeConfig(NamedTuple):
    """``heads`` of a program, a power of 2, or 0 for all. ``groups`` of a long context fold side by
    side; with ``eager``, a short one's partials are all asked for at once.
    """

    heads: int
    groups: int
    eager: bool
    num_warps: int = 4

    @classmethod
    def of(cls, num_requests: int, row: int) -> MergeConfig:
        """One of three, so that a model compiles three kernels at most."""
        if num_requests <= FEW_REQUESTS:
            return ONE_HEAD
        if num_requests < ENOUGH_REQUESTS:
            return FOUR_HEADS
        # As many as for more requests: at 132 a wide row would take a kernel of its own.
        return cls(0, 1, False, num_warps(row, ENOUGH_REQUESTS + 1))


ONE_HEAD = MergeConfig(1, groups=8, eager=True)
FOUR_HEADS = MergeConfig(4, groups=2, eager=False)


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
        _launch(plan, out, None, FOUR_HEADS)
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
    num_groups = cdiv(plan.max_context, PARTITION * GROUP)
    num_requests = merged.shape[0] if out is None else out.codes.shape[0]
    lines = next_power_of_2(config.heads or num_heads)
    _merge_kernel[(num_requests, cdiv(num_heads, lines))](
        plan.partials,
        plan.stats,
        plan.requests,
        plan.arrivals,
        merged,
        *(out or (merged, merged, merged)),
        HEADS=num_heads,
        D=head_dim,
        LINES=lines,
        GROUPS=min(next_power_of_2(num_groups), config.groups),
        PER_GROUP=GROUP,
        D_BLOCK=next_power_of_2(head_dim),
        ROW_BLOCK=next_power_of_2(num_heads * head_dim),
        IS_WHOLE=not config.heads,
        IS_EAGER=config.eager,
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
    HEADS: tl.constexpr,
    D: tl.constexpr,
    LINES: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    D_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    IS_EAGER: tl.constexpr,
    QUANTIZES: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    ROW: tl.constexpr = HEADS * D
    request = tl.program_id(0).to(tl.int64)
    words = request_words(request_ptr, request)
    row_ptr = out_ptr + request * ROW
    head = tl.program_id(1) * LINES + tl.arange(0, LINES)
    in_head = tl.arange(0, D_BLOCK)
    place = head[:, None] * D + in_head[None, :]
    mask = (head < HEADS)[:, None] & (in_head < D)[None, :]
    if IS_WHOLE:
        values = merged_heads(partial_ptr, stat_ptr, words, head, in_head, HEADS, D)
        values = values.to(out_ptr.dtype.element_ty).to(tl.float32)
        SIZE: tl.constexpr = LINES * D_BLOCK
        store_quantized(
            tl.reshape(tl.where(mask, values, 0.0), (SIZE,)),
            request,
            tl.reshape(place, (SIZE,)),
            tl.reshape(mask, (SIZE,)),
            code_ptr,
            scale_ptr,
            sum_ptr,
            ROW,
        )
    else:
        is_long = words[2] + words[1] > words[3]
        if IS_EAGER or is_long:
            stop = tl.minimum((tl.program_id(1) + 1) * (LINES * D), ROW)
            for start in range(tl.program_id(1) * (LINES * D), stop, COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                attention = merged_columns(
                    partial_ptr, stat_ptr, words, column, stop, HEADS, D, GROUPS, PER_GROUP
                )
                tl.store(
                    row_ptr + column[:, None],
                    attention.to(out_ptr.dtype.element_ty),
                    mask=(column < stop)[:, None],
                )
        else:
            values = merged_heads(partial_ptr, stat_ptr, words, head, in_head, HEADS, D)
            tl.store(row_ptr + place, values.to(out_ptr.dtype.element_ty), mask=mask)
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
