from pathlib import Path

import pytest

from qoq.engine.benchmarks import best_batch as module
from qoq.engine.benchmarks.bench_engine import BenchEngine
from qoq.engine.benchmarks.best_batch import best_batch, candidates
from qoq.engine.benchmarks.offline_load import OfflineLoad, choose_batch

from .shapes import on_cpu


@pytest.mark.parametrize(
    ("largest", "batches"),
    [
        (287, [287, 256]),
        (1000, [1000, 960, 896, 768]),
        (511, [511, 448, 384, 256]),
        (256, [256]),
        (129, [129, 128]),
        (127, [127, 64]),
        (63, [63]),
        (1, [1]),
    ],
    ids=str,
)
def test_full_tiles_are_tried_down_to_half_of_what_fits(largest: int, batches: list[int]):
    assert candidates(largest) == batches


def test_the_fastest_wins_not_the_largest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """287 rows are two tiles of work, 256 are one."""

    def rate(engine: BenchEngine, batch: int, context: int) -> float:
        return batch / -(-batch // 256)

    monkeypatch.setattr(module, "held_rate", rate)
    with caplog.at_level("INFO"):
        assert best_batch(None, 287, 1280) == 256
    assert [record.getMessage() for record in caplog.records] == [
        "batch 287: 144 tokens/s at 1280 tokens of context",
        "batch 256: 256 tokens/s at 1280 tokens of context",
    ]


@pytest.mark.parametrize(("lengths", "context"), [((100, 200), 200), ((100, 30), 66)], ids=str)
def test_it_is_measured_at_the_middle_and_never_beyond_the_load_s_blocks(
    shape: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int], context: int
):
    """70 requests whose contexts end where the cache does, each a whole block short of it."""
    load = OfflineLoad(*lengths)
    num_blocks = 70 * -(-load.num_tokens // 64)
    held = []
    hold = BenchEngine.hold

    def listening(engine: BenchEngine, batch: int, context: int) -> int:
        held.append((batch, context))
        return hold(engine, batch, context)

    monkeypatch.setattr(BenchEngine, "hold", listening)
    engine = BenchEngine(on_cpu(shape, num_blocks=num_blocks, max_num_seqs=100))
    assert choose_batch(engine, load) in (70, 64)
    assert held == [(70, context), (64, context)]
    stats = engine._scheduler.stats()
    assert stats.num_running == stats.kv_cache_usage == 0, "all were released"
    assert stats.num_preemptions == stats.prefix_cache_hits == 0
    engine.close()


def test_a_load_too_short_to_hold_takes_what_fits(shape: Path):
    engine = BenchEngine(on_cpu(shape, num_blocks=70, max_num_seqs=100))
    assert choose_batch(engine, OfflineLoad(54, 10)) == 70
    engine.close()
