"""How fast a batch decodes at a context that is not computed."""

from __future__ import annotations

from qoq.engine.benchmarks.bench_engine import HELD_TOKENS, BenchEngine

WARM_UP_STEPS, MEASURED_STEPS = 8, 24
assert WARM_UP_STEPS + MEASURED_STEPS < HELD_TOKENS


def held_rate(engine: BenchEngine, batch: int, context: int) -> float:
    """Tokens/s. So many must fit."""
    num_running = engine.hold(batch, context)
    assert num_running == batch, f"{num_running} of {batch} requests run"
    engine.run_steps(WARM_UP_STEPS)
    elapsed_s = engine.run_steps(MEASURED_STEPS)
    engine.release()
    return batch * MEASURED_STEPS / elapsed_s
