"""Offline throughput, the paper's protocol: all requests at once, as many as decode fastest."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial

from qoq.engine.benchmarks.bench_engine import BenchEngine
from qoq.engine.benchmarks.breakdown import StepBreakdown, break_down
from qoq.engine.benchmarks.model_size import model_size
from qoq.engine.benchmarks.offline_load import (
    OfflineLoad,
    choose_batch,
    config_for,
)
from qoq.engine.benchmarks.rate import Rate, last_first_token_s, random_prompts
from qoq.engine.benchmarks.roofline import Ceilings, decode_rate, decode_step_us, measure_ceilings
from qoq.engine.build import runs_on_gpu
from qoq.engine.config import EngineConfig

logger = logging.getLogger(__name__)

WARM_UP_REQUESTS, WARM_UP_TOKENS = 64, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """``prefill`` is prompt tokens/s until the last request got its first token.

    ``ceilings`` and ``roofline`` (tokens/s, of the steps of ``rate.decode``) are None on the CPU.
    """

    model: str
    precision: str
    device: str
    load: OfflineLoad
    batch: int
    rate: Rate
    prefill: float
    ready_s: float
    weight_bytes: int
    kv_bytes: int
    ceilings: Ceilings | None
    roofline: float | None
    breakdowns: tuple[StepBreakdown, ...]


def measure_throughput(config: EngineConfig, load: OfflineLoad, breakdown: bool) -> Throughput:
    """``config.max_num_seqs`` bounds the batch.

    Raises:
        ValueError: the load does not fit the model or the cache, or the engine does not come up.
    """
    size = model_size(config)
    config = config_for(config, load, size)
    ceilings = measure_ceilings() if runs_on_gpu(config) else None
    step_us = None if ceilings is None else partial(decode_step_us, size, ceilings)
    engine = BenchEngine(config)
    try:
        batch = choose_batch(engine, load)
        streams, started_s = _run(engine, load, batch)
        rate = Rate.of(started_s, streams)
        logger.info("batch %d: %.0f tokens/s, %.0f in decode", batch, rate.total, rate.decode)
        breakdowns = break_down(engine, batch, load, step_us) if breakdown else ()
    finally:
        engine.close()
    roofline = None
    if ceilings is not None:
        roofline = decode_rate(size, ceilings, load.input_len, streams)
    return Throughput(
        model=engine.info.model,
        precision=engine.info.precision,
        device=engine.info.device,
        load=load,
        batch=batch,
        rate=rate,
        prefill=batch * load.input_len / (last_first_token_s(streams) - started_s),
        ready_s=engine.ready_s,
        weight_bytes=size.total_bytes,
        kv_bytes=size.kv_bytes(batch * engine.blocks_for(load.num_tokens)),
        ceilings=ceilings,
        roofline=roofline,
        breakdowns=breakdowns,
    )


def _run(engine: BenchEngine, load: OfflineLoad, batch: int) -> tuple[list[list[float]], float]:
    """After a short run to warm up; and when it began."""
    vocab = engine.info.vocab_size
    warm_up = random_prompts(min(batch, WARM_UP_REQUESTS), load.input_len, vocab, seed=0)
    engine.generate(warm_up, min(load.output_len, WARM_UP_TOKENS))
    prompts = random_prompts(batch, load.input_len, vocab, seed=1)
    started_s = time.monotonic()
    return engine.generate(prompts, load.output_len), started_s
