"""From partial attention to attention: partials fold in order, in groups, as the plan says.

``merge`` has programs for a few query heads, or for columns of one where contexts are long, whose
groups then fold side by side. ``merge_quantize`` has one for each request, whose attention goes to
the output projection without a trip through memory; it is for short contexts.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from qoq.kernels.gpu.decode_plan import GROUP, PARTITION, DecodePlan
from qoq.kernels.gpu.overlap import overlap_options
from qoq.kernels.gpu.partial_softmax import MASKED, fold, weigh
from qoq.kernels.gpu.quantized_rows import QuantizedRows, num_warps, store_quantized
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2

# Contexts of one group: heads of a program. Longer ones: columns, and groups side by side.
LINES = 8
COLUMNS = 32
MAX_GROUPS = 16


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
    if not out.shape[0]:
        return out
    num_groups = cdiv(plan.max_context, PARTITION * GROUP)
    options = overlap_options(out.device)
    arguments = (plan.partials, plan.stats, plan.requests, out)
    if num_groups == 1:
        _merge_heads_kernel[(out.shape[0], cdiv(num_heads, LINES))](
            *arguments,
            HEADS=num_heads,
            D=head_dim,
            BLOCK=next_power_of_2(head_dim),
            LINES=LINES,
            num_warps=4,
            **options,
        )
    else:
        _merge_groups_kernel[(out.shape[0], num_heads, cdiv(head_dim, COLUMNS))](
            *arguments,
            HEADS=num_heads,
            D=head_dim,
            COLUMNS=COLUMNS,
            GROUPS=min(next_power_of_2(num_groups), MAX_GROUPS),
            PER_GROUP=GROUP,
            num_warps=1,
            **options,
        )
    return out


def merge_quantize(plan: DecodePlan, like: Tensor, out: QuantizedRows) -> None:
    """Attention of the first requests, rounded to the dtype of ``like``, into ``[R, Hq D]``.

    Raises:
        ValueError: the plan has fewer requests, or other heads.
    """
    _, num_heads, head_dim = plan.partials.shape
    num_requests = out.codes.shape[0]
    _check_rows(num_requests, plan)
    if out.codes.shape[1] != num_heads * head_dim:
        raise ValueError(f"out: expected [R, {num_heads * head_dim}], got {list(out.codes.shape)}")
    if num_requests:
        _merge_quantize_kernel[(num_requests,)](
            plan.partials,
            plan.stats,
            plan.requests,
            like,
            *out,
            HEADS=num_heads,
            D=head_dim,
            BLOCK=next_power_of_2(head_dim),
            LINES=next_power_of_2(num_heads),
            num_warps=num_warps(num_heads * head_dim, num_requests),
            **overlap_options(plan.partials.device),
        )


@triton.jit
def _load(partial_ptr, stat_ptr, line, in_line, column, in_row, D: tl.constexpr):
    """Partials ``[L, BLOCK]`` and their statistics ``[L]``; nothing where a mask is False."""
    top = tl.load(stat_ptr + line * 3, mask=in_line, other=MASKED)
    total = tl.load(stat_ptr + line * 3 + 1, mask=in_line, other=0.0)
    offset = tl.load(stat_ptr + line * 3 + 2, mask=in_line, other=0.0)
    mask = in_line[:, None] & in_row[None, :]
    values = tl.load(partial_ptr + line[:, None] * D + column[None, :], mask=mask, other=0.0)
    return top, total, offset, values


@triton.jit
def _fold_lines(top, total, offset, values, top_2, total_2, offset_2, values_2):
    both, keep, gain = weigh(top, top_2)
    total = fold(total, keep, total_2, gain)
    offset = fold(offset, keep, offset_2, gain)
    keep = tl.broadcast_to(keep[:, None], values.shape)
    gain = tl.broadcast_to(gain[:, None], values.shape)
    return both, total, offset, fold(values, keep, values_2, gain)


@triton.jit
def _attention(total, offset, values):
    some = tl.where(total > 0, total, 1.0)
    return tl.where((total > 0)[:, None], (values + offset[:, None]) / some[:, None], 0.0)


@triton.jit
def _line(x, line, index):
    """``[1]`` or ``[1, BLOCK]``: one line of ``[L]`` or ``[L, BLOCK]``."""
    if len(x.shape) == 1:
        return tl.sum(tl.where(line == index, x, 0.0), 0, keep_dims=True)
    else:
        return tl.sum(tl.where((line == index)[:, None], x, 0.0), 0, keep_dims=True)


@triton.jit
def _merged_heads(
    partial_ptr, stat_ptr, request_ptr, request, head, column, HEADS: tl.constexpr, D: tl.constexpr
):
    """Attention fp32 ``[L, BLOCK]`` of some heads of a request."""
    first = tl.load(request_ptr + request * 4)
    count = tl.load(request_ptr + request * 4 + 1)
    place = tl.load(request_ptr + request * 4 + 2)
    per_group = tl.maximum(tl.load(request_ptr + request * 4 + 3), 1)
    none = tl.zeros_like(head).to(tl.float32)
    nothing = tl.zeros((head.shape[0], column.shape[0]), tl.float32)
    top, total, offset, values = none + MASKED, none, none, nothing
    tops, totals, offsets, lines = none + MASKED, none, none, nothing
    for start in range(0, count, 2):
        # Both loads are on their way before the first is waited for.
        source = (first + start).to(tl.int64) * HEADS + head
        is_head, has_next = head < HEADS, start + 1 < count
        item = _load(partial_ptr, stat_ptr, source, is_head, column, column < D, D)
        is_next = is_head & has_next
        after = _load(partial_ptr, stat_ptr, source + HEADS, is_next, column, column < D, D)
        for index in tl.static_range(2):
            if (place + start + index) % per_group == 0:
                top, total, offset, values = _fold_lines(
                    top, total, offset, values, tops, totals, offsets, lines
                )
                tops, totals, offsets, lines = none + MASKED, none, none, nothing
            if index == 1:
                item = after
            tops, totals, offsets, lines = _fold_lines(
                tops, totals, offsets, lines, item[0], item[1], item[2], item[3]
            )
    top, total, offset, values = _fold_lines(
        top, total, offset, values, tops, totals, offsets, lines
    )
    return _attention(total, offset, values)


@triton.jit
def _merge_heads_kernel(
    partial_ptr,
    stat_ptr,
    request_ptr,
    out_ptr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()
    request = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * LINES + tl.arange(0, LINES)
    column = tl.arange(0, BLOCK)
    values = _merged_heads(partial_ptr, stat_ptr, request_ptr, request, head, column, HEADS, D)
    out = out_ptr + (request * HEADS + head)[:, None] * D + column[None, :]
    mask = (head < HEADS)[:, None] & (column < D)[None, :]
    tl.store(out, values.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _merge_groups_kernel(
    partial_ptr,
    stat_ptr,
    request_ptr,
    out_ptr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()
    request = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    first = tl.load(request_ptr + request * 4)
    count = tl.load(request_ptr + request * 4 + 1)
    place = tl.load(request_ptr + request * 4 + 2)
    per_group = tl.maximum(tl.load(request_ptr + request * 4 + 3), 1)
    num_groups = tl.cdiv(place + count, per_group)

    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    in_row = column < D
    line = tl.arange(0, GROUPS)
    none = tl.zeros((1,), tl.float32)
    top, total, offset = none + MASKED, none, none
    values = tl.zeros((1, COLUMNS), tl.float32)
    for group in range(0, num_groups, GROUPS):
        no_line = tl.zeros((GROUPS,), tl.float32)
        tops, totals, offsets = no_line + MASKED, no_line, no_line
        lines = tl.zeros((GROUPS, COLUMNS), tl.float32)
        for inner in tl.static_range(PER_GROUP):
            index = (group + line) * per_group + inner - place
            source = (first + index).to(tl.int64) * HEADS + head
            in_line = (index >= 0) & (index < count) & (inner < per_group)
            item = _load(partial_ptr, stat_ptr, source, in_line, column, in_row, D)
            tops, totals, offsets, lines = _fold_lines(
                tops, totals, offsets, lines, item[0], item[1], item[2], item[3]
            )
        for index in range(tl.minimum(num_groups - group, GROUPS)):
            top, total, offset, values = _fold_lines(
                top,
                total,
                offset,
                values,
                _line(tops, line, index),
                _line(totals, line, index),
                _line(offsets, line, index),
                _line(lines, line, index),
            )
    attention = _attention(total, offset, values)
    out = out_ptr + (request * HEADS + head) * D + column[None, :]
    tl.store(out, attention.to(out_ptr.dtype.element_ty), mask=in_row[None, :])


@triton.jit
def _merge_quantize_kernel(
    partial_ptr,
    stat_ptr,
    request_ptr,
    like_ptr,
    code_ptr,
    scale_ptr,
    sum_ptr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    request = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    head = tl.arange(0, LINES)
    values = _merged_heads(partial_ptr, stat_ptr, request_ptr, request, head, column, HEADS, D)
    values = values.to(like_ptr.dtype.element_ty).to(tl.float32)
    place = head[:, None] * D + column[None, :]
    mask = (head < HEADS)[:, None] & (column < D)[None, :]
    SIZE: tl.constexpr = LINES * BLOCK
    store_quantized(
        tl.reshape(tl.where(mask, values, 0.0), (SIZE,)),
        request,
        tl.reshape(place, (SIZE,)),
        tl.reshape(mask, (SIZE,)),
        code_ptr,
        scale_ptr,
        sum_ptr,
        HEADS * D,
    )


def _check_rows(num_requests: int, plan: DecodePlan) -> None:
    if num_requests > plan.requests.shape[0]:
        raise ValueError(f"out: {num_requests} rows, the plan has {plan.requests.shape[0]}")
