from pathlib import Path

import pytest

from qoq.engine.benchmarks.sweep import Sweep, measure_sweep
from qoq.engine.config import EngineConfig

from .shapes import on_cpu


def fits(sweep: Sweep) -> dict[tuple[int, int], bool]:
    return {(cell.batch, cell.context): cell.rate is not None for cell in sweep.cells}


def test_random_weights_run_beyond_the_model_s_own_limit(shape: Path):
    sweep = measure_sweep(on_cpu(shape), [2], [1024])
    assert sweep.model == "tiny" and fits(sweep) == {(2, 1024): True}
    assert all(cell.rate and cell.rate > 0 for cell in sweep.cells)


def test_what_the_cache_does_not_hold_is_left_out(shape: Path):
    """A context of 64 needs two blocks, of 192 four; there are nine."""
    sweep = measure_sweep(on_cpu(shape, num_blocks=9), [1, 4, 8], [64, 192])
    assert fits(sweep) == {
        (1, 64): True,
        (4, 64): True,
        (8, 64): False,
        (1, 192): True,
        (4, 192): False,
        (8, 192): False,
    }


def test_a_batch_larger_than_a_step_runs_whole(shape: Path):
    config = on_cpu(shape, max_num_batched_tokens=4)
    assert fits(measure_sweep(config, [6], [8])) == {(6, 8): True}


def test_a_checkpoint_stops_at_its_own_limit(tiny_quantized: Path):
    config = EngineConfig(model=tiny_quantized, device="cpu", num_threads=1)
    assert fits(measure_sweep(config, [1], [448, 449])) == {(1, 448): True, (1, 449): False}


def test_a_cache_smaller_than_the_longest_context_is_no_error(shape: Path):
    sweep = measure_sweep(on_cpu(shape, num_blocks=3), [1], [100, 4096])
    assert fits(sweep) == {(1, 100): True, (1, 4096): False}


def test_an_unknown_setting_is_refused_as_by_the_engine(shape: Path):
    with pytest.raises(ValueError, match="precision 'int3' is not one of"):
        measure_sweep(on_cpu(shape, precision="int3"), [1], [64])
