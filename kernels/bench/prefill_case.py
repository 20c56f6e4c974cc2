"""Prefill attention of random prompts, checked against float64 on the device of the cache."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from qoq.kernels.bench.attention_case import U16, U32, AttentionCase
from qoq.kernels.gpu.attention.dequantize_kv import dequantize_blocks
from qoq.kernels.gpu.attention.prefill_attention import prefill_attention, scratch_width
from qoq.kernels.gpu.attention.prefill_gluon import HopperPrefill
from qoq.kernels.gpu.attention.prefill_plan import PrefillPlan, plan_prefill
from qoq.kernels.gpu.attention.prefill_triton import PrefillTile
from qoq.kernels.kv_cache import dequantize_kv

Config = PrefillTile | HopperPrefill | None
ROWS_AT_ONCE = 64  # of queries in float64, whose scores are that many times heads times context


def plan_of(case: AttentionCase, query_lens: list[int], window: int | None = None) -> PrefillPlan:
    heads = case.q.shape[1], case.fmt.num_kv_heads
    return plan_prefill(query_lens, case.context_lens, *heads, window).to(case.q.device)


def attend(
    case: AttentionCase,
    q: Tensor,
    query_lens: list[int],
    window: int | None = None,
    config: Config = None,
) -> Tensor:
    """The last ``query_lens`` tokens of each request."""
    plan = plan_of(case, query_lens, window)
    return prefill_attention(q, case.cache, case.tables, plan, case.fmt, case.scale, config)


def random_queries(case: AttentionCase, query_lens: list[int]) -> Tensor:
    """``[M, Hq, D]`` like the case's own."""
    return torch.randn(sum(query_lens), *case.q.shape[1:], device=case.q.device).to(case.q.dtype)


def check_prefill(
    case: AttentionCase,
    q: Tensor,
    query_lens: list[int],
    window: int | None = None,
    config: Config = None,
    num_rows: int = 1 << 30,
) -> Tensor:
    """The result, ``num_rows`` tokens of each request of which were compared.

    Raises:
        AssertionError: the scratch is not the dequantized cache in fp16, or attention errs by more
            than its arithmetic explains, over that scratch or over the dequantized cache itself.
    """
    out = attend(case, q, query_lens, window, config)
    start = 0
    for request, count in enumerate(query_lens):
        keys, values = dequantized(case, request)
        _check_scratch(case, request, keys, values)
        some = torch.unique(torch.linspace(0, count - 1, min(count, num_rows)).long())
        own, got = (x[start : start + count][some.to(x.device)].double() for x in (q, out))
        first = case.context_lens[request] - count
        position = (first + some).to(q.device)
        for rounded in (True, False):
            kv = [x.half().double() if rounded else x.double() for x in (keys, values)]
            expected = reference(own, kv[0], kv[1], position, case.scale, window)
            error = float((got - expected).abs().max()) if count else 0.0
            bound = error_bound(case, q, keys, values, rounded)
            what = "the scratch" if rounded else "the cache"
            assert error <= bound, (
                f"{case.fmt}, window {window}, {config}, request {request} of {case.context_lens}: "
                f"over {what} the error is {error:.2e} of {bound:.2e}"
            )
        start += count
    return out


def alone(case: AttentionCase, request: int) -> AttentionCase:
    one = slice(request, request + 1)
    return replace(
        case, q=case.q[one], tables=case.tables[one], context_lens=case.context_lens[one]
    )


def dequantized(case: AttentionCase, request: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a request, fp32 ``[H, T, D]``."""
    length, fmt = case.context_lens[request], case.fmt
    table = case.tables[request, : ceil(length / fmt.block_size)].long()
    blocks = case.cache.blocks[table]
    codes, scales = fmt.codes(blocks), fmt.scales(blocks).transpose(3, 4)
    if fmt.bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=-1)
    kv = dequantize_kv(codes, scales).permute(1, 2, 0, 3, 4).flatten(2, 3)
    return kv[0, :, :length], kv[1, :, :length]


def error_bound(
    case: AttentionCase, q: Tensor, keys: Tensor, values: Tensor, is_rounded: bool
) -> float:
    """Largest error over ``keys`` and ``values`` in fp16 (``is_rounded``), or as they are.

    A score sums D products in fp32, at four roundoffs each on a matrix unit that truncates, and is
    scaled by two more roundings. An error ``e`` of all scores moves a mean of values by ``2 e``
    times their magnitude. A weight is rounded to fp16 (below ``2 ** -14`` by ``2 ** -25``, of which
    the context's may add up), a row's sum and its values to fp32 once a term and once a tile, and
    the result to the queries' dtype. Rounded keys and values add ``2 ** -11`` of themselves.
    """
    length = keys.shape[1]
    size = float(q.float().abs().sum(dim=-1).max()) * float(keys.abs().max()) * case.scale
    score = ((case.fmt.head_dim + 8) * 4 * U32 + (0 if is_rounded else U16)) * size
    sums = (128 + length / 32 + 16) * 4 * U32 + length * 2.0**-25
    result = 2.0**-8 if q.dtype == torch.bfloat16 else U16
    return (2 * score + sums + U16 + result + (0 if is_rounded else U16)) * float(
        values.abs().max()
    )


def _check_scratch(case: AttentionCase, request: int, keys: Tensor, values: Tensor) -> None:
    fmt, length = case.fmt, case.context_lens[request]
    own = alone(case, request)
    plan = plan_of(own, [length])
    size = 2 * fmt.num_kv_heads * plan.num_rows, scratch_width(fmt.head_dim)
    scratch = torch.full(size, torch.nan, dtype=torch.float16, device=keys.device)
    dequantize_blocks(own.cache, own.tables, plan.blocks, range(fmt.num_kv_heads), fmt, scratch)
    rows = scratch.view(fmt.num_kv_heads, 2, plan.num_rows, -1)
    for which, expected in enumerate((keys, values)):
        got = rows[:, which, :length, : fmt.head_dim]
        assert torch.equal(got, expected.half()), f"{fmt}: the scratch is not the cache in fp16"
    assert not rows[:, :, length:].any(), f"{fmt}: rows past the context are not 0"
    assert not rows[..., fmt.head_dim :].any(), f"{fmt}: columns past the head are not 0"


def reference(
    q: Tensor, keys: Tensor, values: Tensor, position: Tensor, scale: float, window: int | None
) -> Tensor:
    """Float64 ``[n, Hq, D]`` of ``q`` at ``position`` ``[n]``."""
    outputs = [torch.empty_like(q[:0])]
    group = q.shape[1] // keys.shape[0]
    key = torch.arange(keys.shape[1], device=q.device)
    for rows, place in zip(q.split(ROWS_AT_ONCE), position.split(ROWS_AT_ONCE), strict=True):
        scores = torch.einsum("nhgd,htd->nhgt", rows.unflatten(1, (-1, group)), keys) * scale
        hidden = key > place[:, None]
        if window is not None:
            hidden |= key <= place[:, None] - window
        scores.masked_fill_(hidden[:, None, None], -torch.inf)
        outputs.append(torch.einsum("nhgt,htd->nhgd", scores.softmax(-1), values).flatten(1, 2))
    return torch.cat(outputs)
