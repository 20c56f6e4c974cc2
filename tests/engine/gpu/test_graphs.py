from __future__ import annotations

import pytest

from qoq.engine.gpu.graphs import DecodeGraphs, decode_buckets


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
