"""A token's attention has the same bits whatever is computed beside it and wherever its KV lies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from .closeness import assert_same_bits
from .contexts import FORMATS, make_contexts

LENGTHS = [300, 1, 64, 129, 17, 128, 260]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (7, 1), (12, 2), (16, 1)])
def test_whole_chunked_and_token_by_token_prefill(kind: str, heads: tuple[int, int]):
    """Fails if a row's bits depend on its place in a tile (a tile not of a multiple of 4 rows), on
    the tiles beside it, or on keys behind it."""
    contexts = make_contexts([290], kind, heads=heads)
    whole = contexts.prefill(0, 290)
    for chunk in (1, 16, 100):
        assert_same_bits(f"out, chunk {chunk}", contexts.prefill(0, chunk), whole)


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_chunks_at_head_dims_of_models(head_dim: int):
    contexts = make_contexts([150], heads=(9, 3), head_dim=head_dim)
    whole = contexts.prefill(0, 150)
    for chunk in (1, 16, 100):
        assert_same_bits(f"out, chunk {chunk}", contexts.prefill(0, chunk), whole)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("window", [None, 70])
def test_alone_and_in_a_batch(kind: str, window: int | None):
    """Longer neighbours bring partitions that are wholly masked for the shorter."""
    contexts = make_contexts(LENGTHS, kind, window=window)
    spans = [(r, length - 1, length) for r, length in enumerate(LENGTHS)]
    alone = torch.cat([contexts.run([span]) for span in spans])
    assert_same_bits("out", contexts.run(spans), alone)
    assert_same_bits("out, backwards", contexts.run(spans[::-1]).flip(0), alone)
    for i, span in enumerate(spans):
        beside = contexts.run([spans[0], span, (6, 0, 260)])
        assert_same_bits("out, beside a prefill", beside[1:2], alone[i : i + 1])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_prefill_in_a_batch_has_the_bits_of_decodes(kind: str):
    contexts = make_contexts([150, 260, 33], kind, heads=(4, 2))
    whole = contexts.run([(0, 0, 150), (1, 0, 260), (2, 0, 33)])
    steps = torch.cat([contexts.prefill(r, 1) for r in range(3)])
    assert_same_bits("out", whole, steps)


@pytest.mark.parametrize("kind", FORMATS)
def test_in_other_blocks_among_garbage(kind: str):
    """Block ids are names only, and what lies in blocks and slots of nobody has no influence."""
    contexts = make_contexts(LENGTHS, kind)
    spans = [(0, 200, 300)] + [(r, length - 1, length) for r, length in enumerate(LENGTHS)]
    expected = contexts.run(spans)
    for seed in (1, 2):
        assert_same_bits("out", contexts.moved(seed).run(spans), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_slots_past_the_context_have_no_influence(kind: str):
    """The rest of the last block, and later tokens of the request itself."""
    contexts = make_contexts([100, 200], kind)
    spans = [(0, 60, 70), (1, 129, 130)]
    expected = contexts.run(spans)
    for request, start in ((0, 70), (1, 130)):
        table = contexts.tables[request]
        for position in range(start, len(table) * 64):
            block, offset = table[position // 64], position % 64
            contexts.cache.codes[block, :, :, offset] = 200
            if contexts.cache.scales is not None:
                contexts.cache.scales[block, :, :, :, offset] = -60000
    assert_same_bits("out", contexts.run(spans), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_taken_in_advance_have_no_influence(kind: str):
    """A table may be longer than the context needs, by blocks that hold garbage."""
    long = make_contexts([100, 128], kind, spare_blocks=3)
    short = replace(long, tables=[table[:2] for table in long.tables])
    spans = [(0, 80, 100), (1, 127, 128)]
    assert_same_bits("out", long.run(spans), short.run(spans))


def test_a_window_hides_garbage_before_it():
    """Positions before the window, whole partitions of them, add nothing."""
    contexts = make_contexts([400], window=100)
    expected = contexts.run([(0, 390, 400)])
    table = contexts.tables[0]
    for block in table[:4]:  # positions 0..255; the first query sees 291 and later
        contexts.cache.codes[block] = 255
        contexts.cache.scales[block] = 60000
    assert_same_bits("out", contexts.run([(0, 390, 400)]), expected)


def test_a_neighbour_that_is_not_finite_stays_alone():
    """A NaN in one request's queries must not reach another's tokens."""
    contexts = make_contexts([100, 70, 130])
    spans = [(0, 99, 100), (1, 60, 70), (2, 129, 130)]
    expected = contexts.run(spans)
    contexts.queries[1].fill_(torch.nan)
    out = contexts.run(spans)
    assert out[1:11].isnan().all()
    assert_same_bits("out", out[[0, 11]], expected[[0, 11]])
