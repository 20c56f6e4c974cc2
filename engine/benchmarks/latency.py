"""How soon tokens come: the first one, and each after the one before."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise

from qoq.engine.benchmarks.bench_engine import BenchEngine
from qoq.engine.benchmarks.model_size import model_size
from qoq.engine.benchmarks.offline_load import OfflineLoad, choose_batch, config_for
from qoq.engine.benchmarks.rate import Rate, random_prompts
from qoq.engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Latency:
    """Of ``batch`` requests at once: medians of ``rate`` and TTFT, ITL over all gaps, in ms."""

    batch: int
    ttft_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    rate: Rate

    @classmethod
    def of(cls, runs: list[tuple[float, list[list[float]]]]) -> Latency:
        """From each run's start and the times at which its streams got their tokens, seconds."""
        firsts = [stream[0] - started_s for started_s, streams in runs for stream in streams]
        gaps = [b - a for _, streams in runs for stream in streams for a, b in pairwise(stream)]
        return cls(
            batch=len(runs[0][1]),
            ttft_ms=1e3 * statistics.median(firsts),
            itl_p50_ms=1e3 * percentile(gaps, 0.5),
            itl_p99_ms=1e3 * percentile(gaps, 0.99),
            rate=Rate.median([Rate.of(*run) for run in runs]),
        )


def percentile(values: list[float], share: float) -> float:
    """The smallest one that at least ``share`` of ``values`` do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


@dataclass(frozen=True, slots=True)
class Latencies:
    """One of each batch."""

    model: str
    precision: str
    device: str
    rows: tuple[Latency, ...]


def measure_latency(config: EngineConfig, loads: list[OfflineLoad], repeats: int) -> Latencies:
    """One engine for all ``loads``, which differ in their batch; a run to warm up before each.

    Raises:
        ValueError: a load does not fit the model or the cache, or the engine does not come up.
    """
    largest = max(loads, key=lambda load: load.batch or 1)
    engine = BenchEngine(config_for(config, largest, model_size(config)))
    try:
        batches = [choose_batch(engine, load) for load in loads]
        rows = [_measure(engine, *each, repeats) for each in zip(loads, batches, strict=True)]
    finally:
        engine.close()
    info = engine.info
    return Latencies(info.model, info.precision, info.device, tuple(rows))


def _measure(engine: BenchEngine, load: OfflineLoad, batch: int, repeats: int) -> Latency:
    runs = []
    for run in range(repeats + 1):
        # No prompt twice: the prefix cache would have it.
        seed = batch * (repeats + 1) + run
        prompts = random_prompts(batch, load.input_len, engine.info.vocab_size, seed)
        started_s = time.monotonic()
        runs.append((started_s, engine.generate(prompts, load.output_len)))
    return Latency.of(runs[1:])
