"""Scheduling ahead of the device, and ends that come while a step is in flight."""

import pytest

from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import FinishReason, RequestStatus, SamplingParams

from .fake_runner import FakeEngine, generate_alone


def make_engine(lookahead: int = 1, num_blocks: int = 64) -> FakeEngine:
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=4,
        max_num_seqs=8,
        max_num_batched_tokens=32,
        max_model_len=128,
    )
    return FakeEngine(config, lookahead)


def prompt(length: int, first: int = 0) -> list[int]:
    return [first, *range(1, length)]


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_every_step_runs_a_token_and_none_too_many(lookahead):
    """Fails if a token in flight stalls the request, or the last one is computed in vain."""
    engine = make_engine(lookahead)
    engine.add("a", prompt(4), max_tokens=5)
    batches = [engine.step() for _ in range(6)]
    assert [batch.num_tokens for batch in batches] == [4, 1, 1, 1, 1, 0]
    assert [batch.num_samples for batch in batches] == [1, 1, 1, 1, 1, 0]
    engine.check_finished()


def test_a_token_sampled_after_the_stop_token_is_thrown_away():
    """Fails if the step in flight when the stop token arrives adds to the output."""
    tokens, _ = generate_alone(prompt(4), SamplingParams(max_tokens=9))
    engine = make_engine()
    request = engine.add("a", prompt(4), max_tokens=9, stop_token_ids=(tokens[2],))
    engine.run_until_idle()
    assert engine.num_steps == 5  # the third sampled the stop token, the fourth was in flight
    assert engine.tokens_of(request) == tokens[:3]
    engine.check_finished()


def test_blocks_taken_in_vain_come_back():
    """Fails if the block that the overshooting step was given is not returned with the others."""
    tokens, _ = generate_alone(prompt(4), SamplingParams(max_tokens=9))
    engine = make_engine()
    engine.add("a", prompt(4), max_tokens=9, stop_token_ids=(tokens[0],))
    engine.step()
    assert engine.step().scheduled[0].new_block_ids != []
    assert engine.scheduler.stats().kv_cache_usage == 0.0
    engine.run_until_idle()
    engine.check_finished()


@pytest.mark.parametrize("num_steps", range(5))
@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_abort_ends_a_request_at_once_wherever_it_is(num_steps, lookahead):
    """Fails if blocks stay, if the end is missing or doubled, or if late tokens follow it."""
    engine = make_engine(lookahead)
    request = engine.add("a", prompt(40), max_tokens=9)
    for _ in range(num_steps):
        engine.step()
    assert engine.scheduler.abort("a")
    assert engine.scheduler.stats().kv_cache_usage == 0.0
    assert engine.scheduler.num_running == engine.scheduler.num_waiting == 0
    assert engine.scheduler.has_work  # its end has not been taken
    assert not engine.scheduler.abort("a")
    engine.run_until_idle()
    engine.check_finished()
    assert request.finish_reason is FinishReason.ABORT


def test_abort_of_an_unknown_or_finished_request_does_nothing():
    """Fails if a client that leaves late can disturb anything or is answered twice."""
    engine = make_engine()
    engine.add("a", prompt(4), max_tokens=1)
    engine.run_until_idle()
    assert not engine.scheduler.abort("a")
    assert not engine.scheduler.abort("never")
    assert not engine.scheduler.has_work
    engine.check_finished()


def test_the_end_of_an_aborted_request_comes_with_the_next_update():
    """Fails if an abort is only heard of when the engine asks for it."""
    engine = make_engine()
    engine.add("a", prompt(4))
    engine.add("b", prompt(4, first=1))
    batch = engine.scheduler.schedule()
    engine.scheduler.abort("a")
    outputs = engine.scheduler.update(batch, engine.runner.run(batch))
    assert [(o.request_id, o.finish_reason) for o in outputs] == [
        ("a", FinishReason.ABORT),
        ("b", None),
    ]


@pytest.mark.parametrize("lookahead", [1, 2])
def test_an_id_used_again_in_flight_is_another_request(lookahead):
    """Fails if tokens are bound by id: the new request would get the old one's."""
    engine = make_engine(lookahead)
    old = engine.add("a", prompt(4), max_tokens=9)
    engine.step()
    engine.step()
    engine.scheduler.abort("a")
    new = engine.add("a", prompt(6, first=7), max_tokens=9)
    assert engine.step().dropped == ["a"]
    engine.run_until_idle()
    engine.check_finished()
    assert len(engine.tokens_of(new)) == 9
    assert old.finish_reason is FinishReason.ABORT


def crowd(engine: FakeEngine, **sampling: object) -> list:
    return [
        engine.add(str(index), prompt(4, first=index), **{"max_tokens": 24, **sampling})
        for index in range(3)
    ]


@pytest.mark.parametrize("lookahead", [1, 2])
def test_a_preempted_request_keeps_its_tokens_in_flight(lookahead):
    """Fails if the token is lost, so that the output has a gap, or if it resumes without it."""
    engine = make_engine(lookahead, num_blocks=12)
    victim = crowd(engine)[2]
    while victim.status is not RequestStatus.PREEMPTED:
        num_before = victim.num_tokens + victim.num_in_flight
        engine.step()
    while victim.num_in_flight:
        assert victim.status is RequestStatus.PREEMPTED
        engine.step()
    assert victim.num_tokens == num_before
    engine.run_until_idle()
    engine.check_finished()


def test_a_preempted_request_may_finish_by_its_token_in_flight():
    """Fails if it is resumed to compute on behind its end, or never leaves the queue."""
    reference = make_engine(1, num_blocks=12)
    victim = crowd(reference)[2]
    while victim.status is not RequestStatus.PREEMPTED:
        reference.step()
    num_output = len(victim.output_token_ids)
    while victim.num_in_flight:
        reference.step()
        num_output = len(victim.output_token_ids)

    tokens, _ = generate_alone(prompt(4, first=2), SamplingParams(max_tokens=24))
    engine = make_engine(1, num_blocks=12)
    stop = tokens[num_output - 1]
    assert stop not in tokens[: num_output - 1]
    victim = crowd(engine, stop_token_ids=(stop,))[2]
    engine.run_until_idle()
    engine.check_finished()
    assert victim.num_preemptions == 1
    assert len(victim.output_token_ids) == num_output


@pytest.mark.parametrize("num_steps", [1, 2])
def test_blocks_of_an_aborted_step_are_not_offered_to_others(num_steps):
    """Fails if blocks become findable at schedule time, or although their request was aborted."""
    engine = make_engine()
    engine.add("a", prompt(64), max_tokens=4)
    for _ in range(num_steps):
        engine.step()
    engine.scheduler.abort("a")
    engine.run_until_idle()
    second = engine.add("b", prompt(64), max_tokens=4)
    engine.run_until_idle()
    assert second.num_cached_tokens == 32 * (num_steps - 1)
    engine.check_finished()


def test_abort_all_ends_everything_and_trusts_nothing_computed():
    """Fails if a failed step leaves a request without an end, or its KV findable."""
    engine = make_engine(num_blocks=12)
    requests = crowd(engine)
    while not any(r.status is RequestStatus.PREEMPTED for r in requests):
        engine.step()
    late = engine.add("late", prompt(4, first=9))
    engine.scheduler.abort_all()
    outputs = engine.scheduler.take_outputs()
    assert sorted(o.request_id for o in outputs) == ["0", "1", "2", "late"]
    assert {o.finish_reason for o in outputs} == {FinishReason.ABORT}
    assert late.is_finished and not engine.scheduler.has_work
    assert engine.scheduler.stats().kv_cache_usage == 0.0
    engine.pending.clear()
    engine.scheduler.check_integrity()
    again = engine.add("again", requests[0].token_ids, max_tokens=4)
    engine.run_until_idle()
    assert again.num_cached_tokens == 0
    assert engine.tokens_of(again) == generate_alone(again.prompt_token_ids, again.sampling)[0]


def test_what_is_dropped_is_not_lost_in_an_empty_batch():
    """Fails if an engine that skips empty batches never tells its runner to forget a request."""
    engine = make_engine(lookahead=0)
    engine.add("a", prompt(4), max_tokens=1)
    engine.run_until_idle()
    empty = engine.step()
    assert (empty.scheduled, empty.dropped) == ([], [])
    engine.add("b", prompt(4), max_tokens=2)
    assert engine.step().dropped == ["a"]
    assert engine.step().dropped == []
