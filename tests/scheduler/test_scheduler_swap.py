"""Preempted requests and evicted prefixes in host memory: what is computed again, and what not."""

import pytest

from qoq.scheduler import scheduler
from qoq.scheduler.batch import Batch
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request, RequestStatus

from .fake_runner import FakeEngine, generate_alone


def make_config(**changes: int) -> SchedulerConfig:
    defaults = {
        "num_blocks": 12,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 32,
        "max_model_len": 128,
        "num_host_blocks": 64,
    }
    return SchedulerConfig(**{**defaults, **changes})


def make_engine(lookahead: int = 0, **changes: int) -> FakeEngine:
    return FakeEngine(make_config(**changes), lookahead)


def prompt(length: int, first: int = 0) -> list[int]:
    return [first, *range(1, length)][:length]


def crowd(engine: FakeEngine, num_requests: int = 3, **sampling: object) -> list[Request]:
    """Requests that share nothing, fit together at first and outgrow 12 blocks of 4 tokens.

    One needs a block when the last of another is half full.
    """
    return [
        engine.add(str(index), prompt(6 - index, first=index), **{"max_tokens": 24, **sampling})
        for index in range(num_requests)
    ]


def run_until_preemption(engine: FakeEngine) -> Batch:
    while engine.scheduler.stats().num_preemptions == 0:
        batch = engine.step()
    return batch


def num_needed(requests: list[Request]) -> int:
    """Tokens to compute if none is computed twice; the last of each request is only sampled."""
    return sum(request.num_tokens - 1 for request in requests)


def test_refuses_fewer_than_no_host_blocks():
    with pytest.raises(ValueError, match="num_host_blocks is -1; set it to 0 or more"):
        make_config(num_host_blocks=-1)


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("separates_output", [True, False])
def test_nothing_is_computed_twice_where_the_host_has_room(separates_output, caching, lookahead):
    """Fails if a resumed request starts anywhere but where it was preempted, in flight or not."""
    engine = make_engine(
        lookahead, enable_prefix_caching=caching, separates_output=separates_output
    )
    requests = crowd(engine)
    engine.run_until_idle()
    engine.check_finished()
    stats = engine.scheduler.stats()
    assert stats.num_preemptions > 0
    assert stats.num_blocks_swapped_in > 0
    assert engine.runner.num_computed == num_needed(requests)


def test_a_resumed_request_comes_whole_with_its_copies():
    """Fails if the runner is not given all tokens, or blocks that no copy fills."""
    engine = make_engine(max_num_seqs=3, enable_prefix_caching=False)
    victim = crowd(engine)[2]
    batch = run_until_preemption(engine)
    assert len(batch.swap_out.sources) == len(victim.host_table) > 0
    assert sorted(batch.swap_out.targets) == sorted(victim.host_table)
    num_saved, host_table = victim.num_saved_tokens, victim.host_table
    while victim.status is RequestStatus.PREEMPTED:
        batch = engine.step()
    item = next(item for item in batch.scheduled if item.request_id == victim.request_id)
    assert item.new is not None
    assert item.num_computed_tokens == num_saved == len(item.new.token_ids) - 1
    origin = dict(zip(batch.swap_in.targets, batch.swap_in.sources, strict=True))
    assert [origin[block] for block in item.new_block_ids[: len(host_table)]] == host_table


def test_recomputes_where_the_host_has_no_room():
    """Fails if a request is half saved, or waits for room in host memory."""
    engine = make_engine(num_host_blocks=2)
    requests = crowd(engine)
    engine.run_until_idle()
    engine.check_finished()
    assert all(not request.host_table for request in requests)
    assert engine.runner.num_computed > num_needed(requests)


def test_a_shared_prefix_is_saved_once():
    """Fails if every preempted request takes host blocks for the same tokens."""
    engine = make_engine(num_blocks=14, max_num_seqs=4)
    engine.add("shared", prompt(16), max_tokens=1)
    engine.run_until_idle()
    for index in range(3):
        engine.add(str(index), [*prompt(16), 40 + index], max_tokens=24)
    run_until_preemption(engine)
    while engine.scheduler.stats().num_preemptions < 2:
        engine.step()
    tables = [request.host_table for request in engine.scheduler._waiting]
    assert len(tables) == 2
    assert tables[0][:4] == tables[1][:4]
    engine.run_until_idle()
    engine.check_finished()


@pytest.mark.parametrize("lookahead", [0, 1])
def test_finds_an_evicted_prefix_in_host_memory(lookahead):
    """Fails if what the device's cache gives up is lost, or found although other tokens differ."""
    engine = make_engine(lookahead)
    engine.add("a", prompt(20), max_tokens=1)
    engine.run_until_idle()
    engine.add("b", prompt(41, first=7), max_tokens=1)
    engine.run_until_idle()
    swapped_out = engine.scheduler.stats().num_blocks_swapped_out
    assert swapped_out == 4  # 7 blocks never held anything, and b took 11
    again = engine.add("c", [*prompt(20), 40], max_tokens=1)
    other = engine.add("d", prompt(20, first=9), max_tokens=1)
    engine.run_until_idle()
    engine.check_finished()
    assert again.num_cached_tokens == 20
    assert other.num_cached_tokens == 0
    assert engine.scheduler.stats().num_blocks_swapped_in == 4


def test_what_came_from_host_memory_is_shared_at_once():
    """Fails if two requests of one step each copy the same prefix in."""
    engine = make_engine()
    engine.add("a", prompt(20), max_tokens=1)
    engine.run_until_idle()
    engine.add("b", prompt(45, first=7), max_tokens=1)
    engine.run_until_idle()
    for request_id in "cd":
        engine.add(request_id, [*prompt(20), ord(request_id)], max_tokens=1)
    assert len(engine.step().scheduled) == 2
    assert engine.scheduler.stats().num_blocks_swapped_in == 5
    engine.run_until_idle()
    engine.check_finished()


def test_a_prefix_is_read_before_its_block_is_taken():
    """Fails if the device's block that makes way for a prefix goes where the prefix lies."""
    engine = make_engine(num_blocks=3, num_host_blocks=1)
    engine.add("a", prompt(5), max_tokens=1)
    engine.run_until_idle()
    engine.add("b", prompt(12, first=7), max_tokens=1)
    engine.run_until_idle()
    again = engine.add("c", [*prompt(4), 40], max_tokens=1)
    engine.run_until_idle()
    assert again.num_cached_tokens == 4
    engine.check_finished()


def test_output_of_a_preempted_request_is_not_shared_where_it_is_separate():
    """Fails if saved blocks become findable that the device's cache did not have."""
    engine = make_engine(separates_output=True)
    victim = crowd(engine)[2]
    run_until_preemption(engine)
    assert len(victim.host_table) > 2
    late = engine.add("late", [*victim.token_ids, 40], max_tokens=1)
    engine.run_until_idle()
    assert late.num_cached_tokens == 4
    engine.check_finished()


def test_output_is_not_shared_through_host_memory_where_it_is_separate():
    """Fails if a device whose kernels differ gives a prompt what it computed as output."""
    engine = make_engine(separates_output=True)
    first = engine.add("a", prompt(10), max_tokens=16)
    engine.run_until_idle()
    engine.add("b", prompt(45, first=7), max_tokens=1)
    engine.run_until_idle()
    second = engine.add("c", [*first.token_ids, 40], max_tokens=1)
    engine.run_until_idle()
    assert second.num_cached_tokens == 8
    engine.check_finished()


@pytest.mark.parametrize("num_prompt", [8, 24])
def test_a_prompt_that_is_needed_whole_is_begun_again_unless_it_is_done(num_prompt):
    """Fails if log-probabilities of the saved part of a prompt are missing after a resumption."""
    engine = make_engine(max_num_batched_tokens=4, enable_prefix_caching=False)
    engine.add("a", prompt(4), max_tokens=40, priority=-1)
    victim = engine.add("b", prompt(num_prompt, first=1), max_tokens=24, prompt_logprobs=1)
    for _ in range(5):
        engine.step()
    assert victim.num_computed_tokens > 0
    engine.scheduler._preempt(victim)
    assert bool(victim.host_table) == bool(victim.output_token_ids) == (num_prompt == 8)
    engine.run_until_idle()
    engine.check_finished()


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_an_aborted_request_gives_its_host_blocks_back(lookahead):
    """Fails if host memory leaks, a client at a time."""
    engine = make_engine(lookahead)
    victim = crowd(engine)[2]
    run_until_preemption(engine)
    assert victim.host_table
    engine.scheduler.abort("2")
    assert not victim.host_table
    engine.run_until_idle()
    engine.check_finished()


def test_after_a_failure_nothing_in_host_memory_is_trusted():
    """Fails if a prefix is found that a failed step may have been copied from."""
    engine = make_engine()
    requests = crowd(engine)
    run_until_preemption(engine)
    engine.scheduler.abort_all()
    engine.receive(engine.scheduler.take_outputs())
    engine.scheduler.check_integrity()
    again = engine.add("again", requests[2].token_ids, max_tokens=4)
    engine.run_until_idle()
    assert again.num_cached_tokens == 0
    assert engine.tokens_of(again) == generate_alone(again.prompt_token_ids, again.sampling)[0]


def test_copies_are_not_lost_with_an_empty_batch(monkeypatch):
    """Fails if a request is preempted in a step that runs nothing, and resumes with other KV."""
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", 0)
    engine = make_engine(lookahead=1, num_blocks=5, enable_prefix_caching=False)
    engine.add("a", prompt(8), max_tokens=2)
    victim = engine.add("b", prompt(7, first=1), max_tokens=8)
    batches = [engine.step() for _ in range(3)]
    assert [len(batch.scheduled) for batch in batches] == [2, 2, 0]
    assert victim.host_table and batches[2].swap_out.sources == []
    assert len(engine.step().swap_out.sources) == 2
    engine.run_until_idle()
    engine.check_finished()
    assert engine.scheduler.stats().num_blocks_swapped_in == 2
