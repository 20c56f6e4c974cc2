"""The plan covers each query head once and refuses steps that cannot be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qoq.kernels.attention_plan import PARTITION, AttentionPlan, plan_attention


def plan(query_lens: list[int], context_lens: list[int], **options) -> AttentionPlan:
    tables = [list(range(100 * r, 100 * r + -(-n // 64))) for r, n in enumerate(context_lens)]
    defaults = {"num_heads": 6, "num_kv_heads": 2, "block_size": 64}
    return plan_attention(query_lens, context_lens, tables, **defaults | options)


requests = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=6
)  # queries, computed before


@settings(max_examples=60, deadline=None)
@given(requests, st.sampled_from([(1, 1), (4, 4), (6, 2), (7, 1), (17, 1), (40, 2)]))
def test_each_query_head_has_one_place(lens: list[tuple[int, int]], heads: tuple[int, int]):
    """Following the rows to the tiles and back is the identity: fails if one is lost or doubled."""
    queries, contexts = [q for q, _ in lens], [q + before for q, before in lens]
    made = plan(queries, contexts, num_heads=heads[0], num_kv_heads=heads[1])
    places = [
        group.head_of_row.view(group.shape)[:, :, : group.used_rows].flatten()
        for group in made.groups
    ]
    assert made.num_tokens == sum(queries)
    if made.num_tokens:
        assert torch.equal(
            torch.cat(places)[made.row_of_head], torch.arange(sum(queries) * heads[0])
        )


@pytest.mark.parametrize("heads_per_kv", range(1, 41))
def test_tiles_are_of_a_multiple_of_4_rows_for_whole_tokens(heads_per_kv: int):
    """BLAS gives the rows past a multiple of 4 other bits."""
    for group in plan([50, 1], [50, 9], num_heads=2 * heads_per_kv).groups:
        assert group.shape[2] % 4 == 0
        assert heads_per_kv <= group.used_rows <= group.shape[2]
        assert group.used_rows % heads_per_kv == 0


@pytest.mark.parametrize("length", [1, 64, 127, 128, 129, 256, 257])
@pytest.mark.parametrize("window", [None, 1, 100])
def test_each_key_of_the_context_is_seen_in_one_partition(length: int, window: int | None):
    """Counted for a decode: fails for a mask off by one at either end."""
    (group,) = plan([1], [length], window=window).groups
    assert len(group.partitions) == -(-length // PARTITION)
    seen = sum(
        PARTITION - int(p.mask.sum(dim=-1)[0, 0, 0]) if p.mask is not None else PARTITION
        for p in group.partitions
    )
    assert seen == min(length, window or length)
    ids = torch.cat([p.block_ids[0] for p in group.partitions])[: -(-length // 64)]
    assert ids.tolist() == list(range(-(-length // 64)))


def test_requests_without_tokens_are_left_out():
    assert plan([0, 0], [0, 70]).groups == []
    assert plan([], []).num_tokens == 0


def test_impossible_steps_are_refused():
    """Left alone, each would read another request's blocks, or none."""
    with pytest.raises(ValueError, match="^num_heads: 7 is not a multiple of 2 kv heads"):
        plan([1], [1], num_heads=7)
    with pytest.raises(ValueError, match="^block_size: 48 does not divide a partition of 128"):
        plan([1], [1], block_size=48)
    options = {"num_heads": 6, "num_kv_heads": 2, "block_size": 64}
    with pytest.raises(ValueError, match="^context_lens: 129 tokens do not fit in 2 blocks"):
        plan_attention([1], [129], [[4, 5]], **options)
    with pytest.raises(ValueError, match="shorter"):
        plan_attention([1, 1], [3], [[4]], **options)
