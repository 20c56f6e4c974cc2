"""A request's partials become attention, in the order that the plan says.

``merged_heads`` folds one partial after the other, ``merged_columns`` a few groups side by side:
their bits are the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qoq.kernels.gpu.attention.partial_softmax import MASKED, fold, weigh


@triton.jit
def _fold_lines(top, total, offset, values, top_2, total_2, offset_2, values_2):
    """Tops, totals and offsets of lines ``[L]`` or of elements, as ``values`` ``[L, BLOCK]``."""
    both, keep, gain = weigh(top, top_2)
    total = fold(total, keep, total_2, gain)
    offset = fold(offset, keep, offset_2, gain)
    if len(keep.shape) < len(values.shape):
        keep, gain = keep[:, None], gain[:, None]
    keep = tl.broadcast_to(keep, values.shape)
    gain = tl.broadcast_to(gain, values.shape)
    return both, total, offset, fold(values, keep, values_2, gain)


@triton.jit
def _attention(total, offset, values):
    some = tl.where(total > 0, total, 1.0)
    return tl.where(total > 0, (values + offset) / some, 0.0)


@triton.jit
def _line(x, line, index: tl.constexpr):
    """``[C, 1]``: a line of ``[C, L]``. A thread has whole columns, so that nothing moves."""
    return tl.sum(tl.where((line == index)[None, :], x, 0.0), 1, keep_dims=True)


@triton.jit
def request_words(request_ptr, request):
    """First item, number of items, place of the first in its group, items in a group."""
    words = request_ptr + request * 4
    return tl.load(words), tl.load(words + 1), tl.load(words + 2), tl.maximum(tl.load(words + 3), 1)


@triton.jit
def _fold_groups(
    state,
    partial_ptr,
    stat_ptr,
    words,
    group,
    column,
    stop,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
):
    """``state`` ``[C, 1]`` and the next groups, which fold side by side, then in order."""
    first, count, place, per_group = words
    line = tl.arange(0, GROUPS)
    none = tl.zeros((column.shape[0], GROUPS), tl.float32)
    tops, totals, offsets, lines = none + MASKED, none, none, none
    in_row = (column < stop)[:, None]
    head = column // D
    for inner in tl.static_range(PER_GROUP):
        index = (group + line) * per_group + inner - place
        in_line = (index >= 0) & (index < count) & (inner < per_group)
        item = (first + index).to(tl.int64)[None, :]
        mask = in_line[None, :] & in_row
        stats = stat_ptr + (item * HEADS + head[:, None]) * 3
        top = tl.load(stats, mask=mask, other=MASKED)
        total = tl.load(stats + 1, mask=mask, other=0.0)
        offset = tl.load(stats + 2, mask=mask, other=0.0)
        partials = partial_ptr + item * (HEADS * D) + column[:, None]
        # A thread loads single words, so that it can have all lines of a column.
        values = tl.load(tl.max_contiguous(partials, [1, 1]), mask=mask, other=0.0)
        tops, totals, offsets, lines = _fold_lines(
            tops, totals, offsets, lines, top, total, offset, values
        )
    top, total, offset, values = state
    for index in tl.static_range(GROUPS):
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
    return top, total, offset, values


@triton.jit
def merged_columns(
    partial_ptr,
    stat_ptr,
    words,
    column,
    stop,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    PER_GROUP: tl.constexpr,
):
    """Attention fp32 ``[C, 1]`` of columns below ``stop`` of a request's row."""
    num_groups = tl.cdiv(words[2] + words[1], words[3])
    none = tl.zeros((column.shape[0], 1), tl.float32)
    state = (none + MASKED, none, none, none)
    if num_groups == 1:
        state = _fold_groups(
            state, partial_ptr, stat_ptr, words, 0, column, stop, HEADS, D, 1, PER_GROUP
        )
    else:
        for group in range(0, num_groups, GROUPS):
            state = _fold_groups(
                state,
                partial_ptr,
                stat_ptr,
                words,
                group,
                column,
                stop,
                HEADS,
                D,
                GROUPS,
                PER_GROUP,
            )
    return _attention(state[1], state[2], state[3])


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
def merged_heads(partial_ptr, stat_ptr, words, head, column, HEADS: tl.constexpr, D: tl.constexpr):
    """Attention fp32 ``[L, BLOCK]`` of the heads of a request."""
    first, count, place, per_group = words
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
    return _attention(total[:, None], offset[:, None], values)
