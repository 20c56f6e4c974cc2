"""A request's partials become attention, in the order that the plan says.

``merged_heads`` folds one partial after the other, ``merged_groups`` the groups of a long context
side by side, then in order: their bits are the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.attention.partial_softmax import MASKED, fold, weigh


@triton.jit
def request_words(request_ptr, request):
    """First item, number of items, place of the first in its group, items in a group."""
    words = request_ptr + request * 4
    return tl.load(words), tl.load(words + 1), tl.load(words + 2), tl.maximum(tl.load(words + 3), 1)


@triton.jit
def _nothing(LINES: tl.constexpr, BLOCK: tl.constexpr):
    """Tops, totals and offsets ``[LINES, 1]``, values ``[LINES, BLOCK]``."""
    none = tl.zeros((LINES, 1), tl.float32)
    return none + MASKED, none, none, tl.zeros((LINES, BLOCK), tl.float32)


@triton.jit
def _fold(lines, others):
    both, keep, gain = weigh(lines[0], others[0])
    total = fold(lines[1], keep, others[1], gain)
    offset = fold(lines[2], keep, others[2], gain)
    keep = tl.broadcast_to(keep, lines[3].shape)
    gain = tl.broadcast_to(gain, lines[3].shape)
    return both, total, offset, fold(lines[3], keep, others[3], gain)


@triton.jit
def _load(partial_ptr, stat_ptr, line, mask, column, D: tl.constexpr):
    """Lines ``[L, 1]`` of partials, nothing where ``mask`` is False; ``column`` ``[1, BLOCK]``."""
    top = tl.load(stat_ptr + line * 3, mask=mask, other=MASKED)
    total = tl.load(stat_ptr + line * 3 + 1, mask=mask, other=0.0)
    offset = tl.load(stat_ptr + line * 3 + 2, mask=mask, other=0.0)
    values = tl.load(partial_ptr + line * D + column, mask=mask & (column < D), other=0.0)
    return top, total, offset, values


@triton.jit
def _attention(lines):
    total = tl.broadcast_to(lines[1], lines[3].shape)
    some = tl.where(total > 0, total, 1.0)
    return tl.where(total > 0, (lines[3] + lines[2]) / some, 0.0)


@triton.jit
def merged_heads(
    partial_ptr,
    stat_ptr,
    words,
    head,
    column,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Attention fp32 ``[L, BLOCK]`` of heads ``[L, 1]``; ``AHEAD`` items load at a time."""
    first, count, place, per_group = words
    merged = _nothing(head.shape[0], column.shape[1])
    group = merged
    for start in range(0, count, AHEAD):
        line = (first + start).to(tl.int64) * HEADS + head
        items = ()
        for index in tl.static_range(AHEAD):
            mask = (head < HEADS) & (start + index < count)
            item = _load(partial_ptr, stat_ptr, line + index * HEADS, mask, column, D)
            items = items + (item,)  # type: ignore[assignment]
        for index in tl.static_range(AHEAD):
            if (place + start + index) % per_group == 0:
                merged = _fold(merged, group)
                group = _nothing(head.shape[0], column.shape[1])
            group = _fold(group, items[index])
    return _attention(_fold(merged, group))


@triton.jit
def merged_groups(
    partial_ptr,
    stat_ptr,
    words,
    own,
    head,
    column,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
):
    """Attention fp32 ``[1, BLOCK]`` of one head. ``GROUPS`` partials from ``own`` on are this
    program's to write: groups pass through memory from the threads that fold them to all.
    """
    first, count, place, per_group = words
    num_groups = tl.cdiv(place + count, per_group)
    group = tl.arange(0, GROUPS)[:, None]
    merged = _nothing(1, column.shape[1])
    for start in range(0, num_groups, GROUPS):
        lines = _nothing(GROUPS, column.shape[1])
        for inner in tl.static_range(PER_GROUP):
            index = (start + group) * per_group + inner - place
            mask = (index >= 0) & (index < count) & (inner < per_group)
            line = (first + index).to(tl.int64) * HEADS + head
            lines = _fold(lines, _load(partial_ptr, stat_ptr, line, mask, column, D))
        line = (own + group).to(tl.int64) * HEADS + head
        tl.store(stat_ptr + line * 3, lines[0])
        tl.store(stat_ptr + line * 3 + 1, lines[1])
        tl.store(stat_ptr + line * 3 + 2, lines[2])
        tl.store(partial_ptr + line * D + column, lines[3], mask=column < D)
        tl.debug_barrier()
        line = (own + tl.zeros((1, 1), tl.int32)).to(tl.int64) * HEADS + head
        for index in tl.static_range(GROUPS):
            other = _load(partial_ptr, stat_ptr, line + index * HEADS, line >= 0, column, D)
            merged = _fold(merged, other)
        tl.debug_barrier()
    return _attention(merged)
