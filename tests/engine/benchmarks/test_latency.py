from pathlib import Path

import pytest

from qoq.engine.benchmarks.latency import Latency, measure_latency, percentile
from qoq.engine.benchmarks.offline_load import OfflineLoad
from qoq.engine.benchmarks.rate import Rate

from .shapes import on_cpu


def test_of_two_runs():
    """TTFT 1, 2 and 3, 4 s from each run's start; gaps 1, 1, 2, 2 s."""
    runs = [(0.0, [[1.0, 2.0], [2.0, 3.0]]), (10.0, [[13.0, 15.0], [14.0, 16.0]])]
    latency = Latency.of(runs)
    assert (latency.batch, latency.ttft_ms) == (2, 2500)
    assert (latency.itl_p50_ms, latency.itl_p99_ms) == (1000, 2000)
    # After 2 s one token in 1 s, after 14 s two in 2 s; 4 tokens in 3 s and in 6 s.
    assert latency.rate == Rate(1.0, pytest.approx((4 / 3 + 4 / 6) / 2))


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.991, 100)])
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(share: float, value: int):
    assert percentile(list(range(100, 0, -1)), share) == value


def test_one_engine_measures_each_batch(shape: Path):
    loads = [OfflineLoad(70, 4, batch) for batch in (3, 1)]
    latencies = measure_latency(on_cpu(shape), loads, repeats=2)
    assert [row.batch for row in latencies.rows] == [3, 1]
    for row in latencies.rows:
        assert 0 < row.itl_p50_ms <= row.itl_p99_ms and row.ttft_ms > 0


def test_no_prompt_comes_from_the_prefix_cache(shape: Path, monkeypatch: pytest.MonkeyPatch):
    seeds = []

    def prompts(count: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
        seeds.append(seed)
        return [[index % vocab_size for index in range(length)] for _ in range(count)]

    monkeypatch.setattr("qoq.engine.benchmarks.latency.random_prompts", prompts)
    measure_latency(on_cpu(shape), [OfflineLoad(8, 2, batch) for batch in (1, 2, 3)], repeats=2)
    assert len(seeds) == len(set(seeds)) == 9


def test_nothing_is_measured_where_one_of_the_loads_does_not_fit(
    shape: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qoq.engine.benchmarks.latency._measure", lambda *args: pytest.fail("ran"))
    with pytest.raises(ValueError, match="--batch 3 does not fit: .* at most 2 fit"):
        measure_latency(
            on_cpu(shape, num_blocks=4), [OfflineLoad(70, 4, batch) for batch in (1, 3)], repeats=1
        )
