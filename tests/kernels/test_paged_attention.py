"""Attention over the paged cache within fp32 rounding of the float64 definition."""

from __future__ import annotations

import pytest
import torch

from qoq.kernels.attention_plan import plan_attention
from qoq.kernels.kv_cache import SlotMapping, load_kv, store_kv
from qoq.kernels.paged_attention import paged_attention

from .closeness import UNIT_ROUNDOFF, assert_within
from .contexts import FORMATS, Contexts, make_contexts

# Around blocks of 64 and partitions of 128.
BOUNDARIES = [1, 2, 63, 64, 65, 127, 128, 129, 192, 255, 256, 257, 383, 384, 385, 700]


def decodes(contexts: Contexts) -> list[tuple[int, int, int]]:
    return [(r, length - 1, length) for r, length in enumerate(contexts.lengths)]


def assert_is_attention(contexts: Contexts, spans: list[tuple[int, int, int]]):
    out = contexts.run(spans)
    assert_within("out", out, contexts.reference(spans), contexts.bound())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("window", [None, 1, 64, 100, 128, 200])
def test_decodes_at_every_boundary(kind: str, window: int | None):
    """Fails for a mask off by one, a partition or a block missed, a merge without maxima."""
    contexts = make_contexts(BOUNDARIES, kind, window=window)
    assert_is_attention(contexts, decodes(contexts))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("window", [None, 1, 5, 130])
def test_prefills_chunks_and_decodes_in_one_step(kind: str, window: int | None):
    """Chunks that begin and end anywhere, whole prompts, a request without tokens."""
    contexts = make_contexts([300, 130, 1, 64, 129, 3, 200], kind, window=window)
    spans = [(0, 0, 300), (1, 100, 130), (2, 0, 1), (3, 5, 5), (4, 128, 129), (5, 0, 3), (6, 1, 77)]
    assert_is_attention(contexts, spans)


@pytest.mark.parametrize("heads", [(g * 2, 2) for g in range(1, 17)] + [(1, 1), (7, 1), (40, 2)])
def test_every_ratio_of_heads(heads: tuple[int, int]):
    """Ratios fill a tile in whole tokens or leave padding: fails if a head meets another's keys."""
    contexts = make_contexts([140, 37, 1], heads=heads)
    assert_is_attention(contexts, [(0, 90, 140), (1, 0, 37), (2, 0, 1)])
    assert_is_attention(contexts, decodes(contexts))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("head_dim", [2, 32, 64, 96, 128, 256])
def test_every_head_dim(kind: str, head_dim: int):
    contexts = make_contexts([150, 20], kind, head_dim=head_dim)
    assert_is_attention(contexts, [(0, 120, 150), (1, 19, 20)])


def test_more_tiles_than_one_group_shares():
    """700 tokens make hundreds of tiles of a few tokens: several groups of 32."""
    contexts = make_contexts([700])
    assert_is_attention(contexts, [(0, 0, 700)])


@pytest.mark.parametrize("kind", FORMATS)
def test_scores_that_overflow_a_plain_exponential(kind: str):
    """Scores up to 8000, highest in the middle: needs the maximum of each partition and
    their difference in the merge. Errors of scores grow alike, so one key is made to win.
    """
    contexts = make_contexts([400], kind, heads=(1, 1))
    keys = torch.zeros(400, 2, 1, 32)
    keys[:, 0, 0, 0] = 2000 - torch.arange(400).sub(200).abs().float() * 10
    keys[:, 1] = torch.randn(400, 1, 32)
    positions = torch.arange(400)
    slots = SlotMapping(torch.tensor(contexts.tables[0])[positions // 64], positions % 64)
    store_kv(contexts.cache, slots, keys, contexts.fmt)
    contexts.queries[0].zero_()[:, :, 0] = 32**0.5 * 4
    out = contexts.run([(0, 399, 400)])
    values = load_kv(contexts.cache.blocks[torch.tensor(contexts.tables[0])], 1, contexts.fmt)[1]
    # Keys are rounded to fp16 by 1 at most, so the others weigh exp(-4 * 8) and less.
    assert_within("out", out[0], values[:, 200], 300 * 2**-24 * float(values.abs().max()) * 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_queries_get_16_bit_results(dtype: torch.dtype):
    """Computed in fp32, rounded once."""
    contexts = make_contexts([200, 64])
    queries = [q.to(dtype) for q in contexts.queries]
    wide = Contexts([q.float() for q in queries], contexts.cache, contexts.tables, contexts.fmt)
    narrow = Contexts(queries, contexts.cache, contexts.tables, contexts.fmt)
    spans = [(0, 150, 200), (1, 63, 64)]
    out = narrow.run(spans)
    assert out.dtype == dtype
    assert torch.equal(out, wide.run(spans).to(dtype))
    exact = wide.reference(spans)
    bound = wide.bound() * (1 + UNIT_ROUNDOFF[dtype]) + UNIT_ROUNDOFF[dtype] * exact.abs()
    assert_within("out", out, exact, bound)


def test_no_tokens():
    contexts = make_contexts([3])
    plan = plan_attention([], [], [], num_heads=6, num_kv_heads=2, block_size=64)
    q = torch.empty(0, 6, 32)
    assert paged_attention(q, contexts.cache, plan, contexts.fmt, 1.0).shape == (0, 6, 32)


def test_leaves_queries_and_cache_alone():
    """Layers share the plan, and the cache is the only truth."""
    contexts = make_contexts([140])
    queries, blocks = contexts.queries[0].clone(), contexts.cache.blocks.clone()
    contexts.run([(0, 0, 140)])
    assert torch.equal(contexts.queries[0], queries)
    assert torch.equal(contexts.cache.blocks, blocks)


@pytest.mark.parametrize("shape", [(2, 6, 32), (3, 4, 32), (3, 6, 16), (18, 32)])
def test_queries_of_another_shape_are_refused(shape: tuple[int, ...]):
    contexts = make_contexts([3])
    plan = plan_attention([3], [3], contexts.tables, num_heads=6, num_kv_heads=2, block_size=64)
    with pytest.raises(ValueError, match=r"^q: expected \[3, 6, 32\], got"):
        paged_attention(torch.ones(shape), contexts.cache, plan, contexts.fmt, 1.0)
