from __future__ import annotations

import pytest

from qoq.engine.gpu.graphs import DecodeGraphs, decode_buckets
from qoq.engine.gpu.piecewise_graphs import MAX_ROWS, piecewise_buckets


@pytest.mark.parametrize("max_rows", [1, 2, 3, 15, 16, 17, 100, 256, 257, 320, 1000])
def test_every_number_of_rows_has_a_bucket_that_is_not_much_larger(max_rows: int):
    graphs = DecodeGraphs(lambda num_rows: None, max_rows)
    assert graphs.buckets == sorted(set(graphs.buckets))
    assert graphs.buckets[-1] == max_rows
    for rows in range(1, max_rows + 1):
        bucket = graphs.bucket(rows)
        assert rows <= bucket <= max(2 * rows, rows + (15 if rows <= 256 else 63))


def test_large_batches_do_not_take_a_graph_for_every_few_rows():
    assert len(decode_buckets(1024)) < 40


@pytest.mark.parametrize("max_rows", [64, 128, 512, 576, 700, 1024, 2048, 8192])
def test_a_step_with_prompts_is_padded_by_a_quarter_at_most_and_never_past_the_inputs(
    max_rows: int,
):
    buckets = piecewise_buckets(max_rows)
    assert buckets[-1] == min(max_rows // 64 * 64, MAX_ROWS)
    for rows in range(64, buckets[-1] + 1, 64):
        bucket = min(size for size in buckets if size >= rows)
        assert bucket <= 1.25 * rows
