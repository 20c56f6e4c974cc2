"""What the sweep tries, and that activations have memory behind them for all of it."""

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.bench.gemm import hopper_candidates, strip_candidates
from qoq.kernels.bench.tune import M_BUCKETS
from qoq.kernels.gpu.quantized_rows import QuantizedRows
from qoq.kernels.gpu.sizes import round_up


@pytest.mark.parametrize(
    ("m", "sizes"),
    [
        (64, set()),
        (65, {96}),
        (94, {96}),
        (97, set()),
        (130, {96, 160}),
        (192, {96, 192}),
        (218, {224}),
        (256, set()),
        (320, {160}),
        (448, {96, 160, 224}),
        (2048, set()),
    ],
)
def test_sizes_between_powers_of_two_are_tried_where_they_fit(m: int, sizes: set[int]) -> None:
    assert {tile.block_m for tile in strip_candidates(m)} == sizes


def test_every_candidate_is_of_strips_that_a_tile_has() -> None:
    for m in M_BUCKETS:
        assert all(sum(tile.strips) == tile.block_m for tile in hopper_candidates(m))


def test_there_is_memory_behind_the_rows_for_whole_tiles() -> None:
    """Of the sizes that do not pad more than a power of two, from the bucket before on."""
    for before, bucket in zip([0, *M_BUCKETS], M_BUCKETS, strict=False):
        for m in {before + 1, (before + bucket) // 2, bucket}:
            memory = len(QuantizedRows.allocate(m, 16, torch.device("cpu")).codes.untyped_storage())
            for tile in strip_candidates(bucket):
                assert round_up(m, tile.block_m) * 16 <= memory, (m, tile)
