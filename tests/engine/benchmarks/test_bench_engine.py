from collections.abc import Iterator
from pathlib import Path

import pytest

from qoq.engine.benchmarks.bench_engine import HELD_TOKENS, BenchEngine
from qoq.engine.benchmarks.rate import random_prompts

from .shapes import on_cpu


@pytest.fixture
def engine(shape: Path) -> Iterator[BenchEngine]:
    engine = BenchEngine(on_cpu(shape, num_blocks=20, max_num_seqs=6))
    yield engine
    engine.close()


def test_generate_times_every_token(engine: BenchEngine):
    streams = engine.generate(random_prompts(3, 40, 96, seed=0), 5)
    assert [len(stream) for stream in streams] == [5, 5, 5]
    assert all(stream == sorted(stream) for stream in streams)


@pytest.mark.parametrize(("num_tokens", "batch"), [(64, 6), (192, 6), (193, 5), (512, 2)], ids=str)
def test_the_largest_batch_is_what_blocks_and_seats_allow(
    engine: BenchEngine, num_tokens: int, batch: int
):
    """20 blocks of 64 tokens, 6 requests at a time."""
    assert engine.largest_batch(num_tokens) == batch


def test_no_more_requests_run_than_a_step_has_tokens(shape: Path):
    engine = BenchEngine(on_cpu(shape, max_num_batched_tokens=3))
    assert engine.largest_batch(10) == 3
    assert engine.hold(5, 10) == 3
    engine.release()
    engine.close()


def test_held_requests_decode_at_once_however_long_their_context(engine: BenchEngine):
    assert engine.hold(3, 300) == 3
    assert engine.times.num_submitted == 1, "300 tokens each would take a second step"
    before = engine.times.num_submitted
    engine.run_steps(5)
    assert engine.times.num_submitted == before + 5


def test_held_requests_last_for_their_tokens(engine: BenchEngine):
    engine.hold(1, 100)
    engine.run_steps(HELD_TOKENS - 1)
    assert engine.times.num_submitted == HELD_TOKENS
    engine.run_steps(1)
    assert engine.times.num_submitted == HELD_TOKENS, "the last token was sampled before"


def test_what_was_released_leaves_all_blocks_and_seats(engine: BenchEngine):
    """Six requests of three blocks each fit only where the six before gave theirs back."""
    assert engine.hold(6, 128) == 6
    engine.run_steps(3)
    before = engine.times.num_submitted
    engine.release()
    assert engine.times.num_submitted == before, "nobody is left to run"
    assert engine.hold(6, 128) == 6
    engine.release()
    streams = engine.generate(random_prompts(6, 100, 96, seed=0), 3)
    assert [len(stream) for stream in streams] == [3] * 6


def test_after_a_hold_prompts_are_computed_again(engine: BenchEngine):
    """512 tokens of budget: two prompts of 400 take two steps, and two more for three tokens."""
    engine.hold(1, 50)
    engine.release()
    before = engine.times.num_submitted
    engine.generate(random_prompts(2, 400, 96, seed=0), 3)
    assert engine.times.num_submitted - before == 4
