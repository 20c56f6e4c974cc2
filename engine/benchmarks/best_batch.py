"""The batch that decodes fastest: with as many as fit, a GEMM's last tile may be nearly empty."""

from __future__ import annotations

import logging

from qoq.engine.benchmarks.bench_engine import BenchEngine
from qoq.engine.benchmarks.held_rate import held_rate

logger = logging.getLogger(__name__)

TILE_ROWS = (64, 128, 256)


def best_batch(engine: BenchEngine, largest: int, context: int) -> int:
    """Of up to ``largest`` requests, by decoded tokens/s at ``context``."""
    batches = candidates(largest)
    if len(batches) == 1:
        return largest
    rates = {batch: held_rate(engine, batch, context) for batch in batches}
    for batch, rate in rates.items():
        logger.info("batch %d: %.0f tokens/s at %d tokens of context", batch, rate, context)
    return max(batches, key=rates.__getitem__)


def candidates(largest: int) -> list[int]:
    """``largest`` and the next multiples of tiles below it: each more than half of it."""
    full = {largest // rows * rows for rows in TILE_ROWS} - {0}
    return sorted({largest} | full, reverse=True)
