"""Causal attention of a step's tokens over the paged KV cache, in plain torch.

Every position, the step's own included, is read from the cache. The context is cut into fixed
partitions, each gives a partial softmax, and partials merge in order of position. A matrix product
always sees the same shape: one tile of query rows against one partition. So a token's result has
the same bits alone or in a batch, in a whole or a chunked prefill, prefilled or decoded.

A tile holds the query heads that share a kv head, of as many consecutive tokens as fit; what is not
a product runs on its used rows alone. Scales never touch elements: with codes ``c``,
``q . (c s + b)`` is ``(q . c) s + sum(q) b``, and likewise for the values (QServe, arXiv
2405.04532, section 5.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from qoq.kernels.attention_plan import AttentionPlan, Partition, TileGroup
from qoq.kernels.kv_cache import KvCache, KvFormat, load_codes, load_kv, load_scales

# Stands for minus infinity where a difference of two must stay a number.
MASKED = -1e30


def paged_attention(
    q: Tensor, cache: KvCache, plan: AttentionPlan, fmt: KvFormat, softmax_scale: float
) -> Tensor:
    """Attention of ``q`` ``[M, Hq, D]`` over one layer's ``cache``; the same shape and dtype back.

    Raises:
        ValueError: ``q`` does not match the plan or the cache format.
    """
    if q.shape != (plan.num_tokens, plan.num_heads, fmt.head_dim):
        raise ValueError(
            f"q: expected [{plan.num_tokens}, {plan.num_heads}, {fmt.head_dim}], "
            f"got {list(q.shape)}"
        )
    if not plan.groups:
        return q
    rows = (q.float() * softmax_scale).flatten(0, 1)
    tiles = [_attend(rows, cache, group, fmt).flatten(0, 2) for group in plan.groups]
    out = tiles[0] if len(tiles) == 1 else torch.cat(tiles)
    return out.index_select(0, plan.row_of_head).view(q.shape).to(q.dtype)


def _attend(rows: Tensor, cache: KvCache, group: TileGroup, fmt: KvFormat) -> Tensor:
    """Softmax-weighted values of the used rows of one group's tiles, fp32 ``[X, n, used, D]``."""
    q = rows.index_select(0, group.head_of_row).view(*group.shape, fmt.head_dim)
    state: _Partial | None = None
    for part in group.partitions:
        x, n = part.active
        blocks = cache.blocks.index_select(0, part.block_ids.flatten())
        attend = _attend_dense if fmt.bits is None else _attend_quantized
        partial = attend(q[:x, :n], blocks, part, group.used_rows, fmt)
        if state is None:
            state = partial
        else:
            _merge(_Partial(*(tensor[:x, :n] for tensor in state)), partial)
    assert state is not None
    # A row of padding saw nothing; its zero total must not make a NaN.
    return state.out.div_(state.total.clamp_(min=torch.finfo(torch.float32).tiny))


class _Partial(NamedTuple):
    """Maximum and sum of exponentials ``[X, n, used, 1]``, weighted values ``[X, n, used, D]``."""

    top: Tensor
    total: Tensor
    out: Tensor


def _attend_quantized(
    q: Tensor, blocks: Tensor, part: Partition, used: int, fmt: KvFormat
) -> _Partial:
    num_runs = part.block_ids.shape[0]
    codes = load_codes(blocks, num_runs, fmt)
    scale, bias = load_scales(blocks, num_runs, fmt)[:, :, :, None, None].unbind(dim=1)
    scores = _matmul(q, next(codes).transpose(1, 2))[:, :, :used] * scale[0]
    scores.addcmul_(q[:, :, :used].sum(dim=-1, keepdim=True), bias[0])
    top, weights, total = _softmax(scores, part.mask)
    offset = (weights * bias[1]).sum(dim=-1, keepdim=True)
    weights = functional.pad(weights.mul_(scale[1]), (0, 0, 0, q.shape[2] - used))
    return _Partial(top, total, _matmul(weights, next(codes))[:, :, :used].add_(offset))


def _attend_dense(q: Tensor, blocks: Tensor, part: Partition, used: int, fmt: KvFormat) -> _Partial:
    keys, values = load_kv(blocks, part.block_ids.shape[0], fmt)
    scores = _matmul(q, keys.transpose(1, 2))[:, :, :used]
    top, weights, total = _softmax(scores, part.mask)
    weights = functional.pad(weights, (0, 0, 0, q.shape[2] - used))
    return _Partial(top, total, _matmul(weights, values)[:, :, :used])


def _softmax(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Row maxima, exponentials (in place of ``scores``) and their sums; True in ``mask`` hides."""
    if mask is not None:
        scores.masked_fill_(mask, -torch.inf)
    top = scores.amax(dim=-1, keepdim=True).clamp_(min=MASKED)
    weights = scores.sub_(top).exp_()
    return top, weights, weights.sum(dim=-1, keepdim=True)


def _merge(state: _Partial, partial: _Partial) -> None:
    """Fold a later partition into the state in place.

    Exact where the partition is wholly masked: the state is multiplied by 1 and gains 0.
    """
    both = torch.maximum(state.top, partial.top)
    keep, gain = (state.top - both).exp_(), (partial.top - both).exp_()
    state.total.mul_(keep).add_(partial.total.mul_(gain))
    state.out.mul_(keep).add_(partial.out.mul_(gain))
    state.top.copy_(both)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """``[X, n, rows, C]`` by ``[X, C, N]``, as products of one shape ``[rows, C] x [C, N]``."""
    n = a.shape[1]
    if n == 1:
        return torch.bmm(a[:, 0], b)[:, None]
    return torch.stack([torch.bmm(x, y.expand(n, *y.shape)) for x, y in zip(a, b, strict=True)])


def paged_attention_reference(
    q: Tensor,
    cache: KvCache,
    block_tables: list[list[int]],
    query_lens: list[int],
    context_lens: list[int],
    fmt: KvFormat,
    softmax_scale: float,
    window: int | None = None,
) -> Tensor:
    """The definition, request by request in float64 over the dequantized cache.

    ``context_lens`` counts a request's tokens with this step's; its queries are the last ones.
    """
    outputs, start = [], 0
    for table, num_queries, length in zip(block_tables, query_lens, context_lens, strict=True):
        keys, values = load_kv(cache.blocks[torch.tensor(table)], 1, fmt)[:, :, :length].double()
        queries = q[start : start + num_queries].double().transpose(0, 1)
        groups = queries.shape[0] // keys.shape[0]
        scores = queries @ keys.repeat_interleave(groups, 0).transpose(1, 2) * softmax_scale
        position = torch.arange(length - num_queries, length)[:, None]
        key = torch.arange(length)
        hidden = key > position
        if window is not None:
            hidden |= key <= position - window
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        outputs.append((weights @ values.repeat_interleave(groups, 0)).transpose(0, 1))
        start += num_queries
    return torch.cat(outputs).to(q.dtype) if outputs else q
