"""Where the time of a step goes: kernels and gaps on the device, and the work of the host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from qoq.engine.benchmarks.bench_engine import HELD_TOKENS, BenchEngine
from qoq.engine.benchmarks.offline_load import OfflineLoad
from qoq.engine.benchmarks.rate import random_prompts
from qoq.engine.benchmarks.step_times import HostTimes
from qoq.engine.benchmarks.trace import Kernel, busy_us, kernels, span_us, trace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepCounts:
    """``measured`` steps run without the profiler, ``profiled`` ones under it."""

    warm_up: int
    measured: int
    profiled: int

    @property
    def total(self) -> int:
        return self.warm_up + self.measured + self.profiled


Roofline = Callable[[int, int], float]

DECODE_STEPS, PREFILL_STEPS = StepCounts(4, 24, 8), StepCounts(2, 4, 4)
assert DECODE_STEPS.total < HELD_TOKENS


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """A step under the profiler, microseconds; busy with at least one kernel or copy."""

    step_us: float
    busy_us: float
    kernels: tuple[Kernel, ...]

    @property
    def gap_share(self) -> float:
        return 1 - self.busy_us / self.step_us


@dataclass(frozen=True, slots=True)
class StepBreakdown:
    """``step_us`` is without the profiler; ``device`` is None on the CPU, and where the driver lets
    nobody profile.

    ``roofline_us`` is the least time of a decode step, None of others and on the CPU.
    """

    name: str
    step_us: float
    host: HostTimes
    device: DeviceTimes | None
    roofline_us: float | None


def break_down(
    engine: BenchEngine, batch: int, load: OfflineLoad, roofline: Roofline | None
) -> tuple[StepBreakdown, ...]:
    """``roofline`` takes batch and context to microseconds."""
    return _decode(engine, batch, load, roofline), _prefill(engine, load)


def _decode(
    engine: BenchEngine, batch: int, load: OfflineLoad, roofline: Roofline | None
) -> StepBreakdown:
    """At the mean context, or as near as the model's limit allows."""
    context = min(load.mean_context, engine.info.max_model_len - HELD_TOKENS)
    wanted = min(batch, engine.largest_batch(context + HELD_TOKENS))
    running = engine.hold(wanted, context)
    name = f"decode, {running} requests at {context} tokens"
    least_us = None if roofline is None else roofline(running, context)
    return _measure(engine, name, DECODE_STEPS, least_us)


def _prefill(engine: BenchEngine, load: OfflineLoad) -> StepBreakdown:
    step_tokens = engine.scheduler_config.max_num_batched_tokens
    count = -(-PREFILL_STEPS.total * step_tokens // load.input_len) + 1
    for prompt in random_prompts(count, load.input_len, engine.info.vocab_size, seed=2):
        engine.add(prompt, max_tokens=1)
    name = f"prefill, up to {step_tokens} tokens of prompts of {load.input_len}"
    return _measure(engine, name, PREFILL_STEPS, None)


def _measure(
    engine: BenchEngine, name: str, counts: StepCounts, roofline_us: float | None
) -> StepBreakdown:
    engine.run_steps(counts.warm_up)
    step_us = engine.run_steps(counts.measured) / counts.measured * 1e6
    host = engine.times.mean_of_last(counts.measured)
    device = None if engine.info.device == "cpu" else profile_steps(engine, counts.profiled)
    engine.release()
    return StepBreakdown(name, step_us, host, device, roofline_us)


def profile_steps(engine: BenchEngine, count: int) -> DeviceTimes | None:
    before = engine.times.num_submitted
    intervals = trace(lambda: engine.run_steps(count))
    if not intervals:
        logger.warning("no kernel times: the profiler saw no kernel (is CUPTI permitted here?)")
        return None
    num_steps = engine.times.num_submitted - before
    return DeviceTimes(
        span_us(intervals) / num_steps,
        busy_us(intervals) / num_steps,
        kernels(intervals, num_steps),
    )
