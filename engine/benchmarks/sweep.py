"""How decoding scales: batch by context, without computing the contexts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from qoq.engine.benchmarks.bench_engine import HELD_TOKENS, BenchEngine
from qoq.engine.benchmarks.held_rate import held_rate
from qoq.engine.build import runs_on_gpu
from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import read_shape, shape_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cell:
    """``rate`` in decoded tokens/s; None where so many contexts do not fit."""

    batch: int
    context: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Sweep:
    model: str
    precision: str
    device: str
    cells: tuple[Cell, ...]


def measure_sweep(config: EngineConfig, batches: list[int], contexts: list[int]) -> Sweep:
    """Random weights run at any context, a checkpoint's up to its own limit.

    Raises:
        ValueError: the engine does not come up.
    """
    step_tokens = max(config.step_tokens(runs_on_gpu(config)), *batches)
    config = replace(
        config,
        max_num_seqs=max(batches),
        max_num_batched_tokens=step_tokens,
        enable_prefix_caching=False,
    )
    with _with_positions(config, max(contexts) + HELD_TOKENS) as longer:
        engine = BenchEngine(longer)
    try:
        cells = [Cell(b, c, _rate(engine, b, c)) for c in contexts for b in batches]
    finally:
        engine.close()
    info = engine.info
    return Sweep(info.model, info.precision, info.device, tuple(cells))


@contextmanager
def _with_positions(config: EngineConfig, num_tokens: int) -> Iterator[EngineConfig]:
    """A model of random weights with so many positions; another as it is."""
    if config.load_format == "auto":
        yield config
        return
    with shape_folder(config.model.name, read_shape(config.model), num_tokens) as model:
        yield replace(config, model=model)


def _rate(engine: BenchEngine, batch: int, context: int) -> float | None:
    num_tokens = context + HELD_TOKENS
    if num_tokens > engine.info.max_model_len or batch > engine.largest_batch(num_tokens):
        return None
    rate = held_rate(engine, batch, context)
    logger.info("batch %d at %d tokens: %.0f tokens/s", batch, context, rate)
    return rate
