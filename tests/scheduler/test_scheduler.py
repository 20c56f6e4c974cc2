"""What runs in which step, for how many tokens, and how each request ends."""

import pytest

from qoq.scheduler.batch import Batch
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import FinishReason, Request, RequestStatus, SamplingParams
from qoq.scheduler.scheduler import Scheduler

from .fake_runner import FakeEngine, generate_alone


def make_config(**changes: int) -> SchedulerConfig:
    defaults = {
        "num_blocks": 64,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 32,
        "max_model_len": 128,
    }
    return SchedulerConfig(**{**defaults, **changes})


def make_engine(lookahead: int = 0, **changes: int) -> FakeEngine:
    return FakeEngine(make_config(**changes), lookahead)


def num_tokens(batch: Batch) -> dict[str, int]:
    return {item.request_id: item.num_scheduled_tokens for item in batch.scheduled}


def prompt(length: int, first: int = 0) -> list[int]:
    return [first, *range(1, length)][:length]


@pytest.mark.parametrize(
    ("length", "max_tokens", "message"),
    [
        (0, 4, "prompt_token_ids is empty"),
        (4, 0, "max_tokens is 0"),
        (4, -1, "max_tokens is -1"),
        (100, 29, r"prompt_token_ids \(100\).*max_tokens \(29\).*max_model_len \(128\).*shorten"),
        (30, 12, r"prompt_token_ids \(30\).*max_tokens \(12\).*KV cache.*lower max_tokens"),
    ],
)
def test_refuses_what_could_never_run(length, max_tokens, message):
    """Fails if such a request waits for ever, or if the message does not say what to change."""
    num_blocks = 10 if length == 30 else 64
    engine = make_engine(num_blocks=num_blocks)
    with pytest.raises(ValueError, match=message):
        engine.add("a", prompt(length), max_tokens=max_tokens)
    assert not engine.scheduler.has_work


def test_refuses_an_id_that_is_in_use():
    """Fails if two live requests could answer to one id."""
    engine = make_engine()
    engine.add("a", prompt(4))
    with pytest.raises(ValueError, match="request_id 'a' is in use"):
        engine.add("a", prompt(4))
    engine.run_until_idle()
    engine.add("a", prompt(4))
    engine.run_until_idle()
    engine.check_finished()


def test_refuses_limits_under_which_nothing_runs():
    """Fails if a zero budget is found out by an engine that never answers."""
    with pytest.raises(ValueError, match="max_num_batched_tokens is 0"):
        make_config(max_num_batched_tokens=0)


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_runs_a_request_that_takes_every_block(lookahead):
    """Fails if one block more than needed is asked for anywhere: 17 + 4 - 1 tokens are 5 blocks."""
    engine = make_engine(lookahead, num_blocks=5)
    engine.add("a", prompt(17), max_tokens=4)
    engine.run_until_idle(max_steps=8)
    engine.check_finished()


def test_cuts_prefill_to_the_token_budget_and_decodes_beside_it():
    """Fails if a chunk exceeds what is left, or a running request waits for a prefill."""
    engine = make_engine(max_num_batched_tokens=8)
    engine.add("a", prompt(4), max_tokens=9)
    engine.add("b", prompt(18, first=1), max_tokens=2)
    steps = [num_tokens(engine.step()) for _ in range(5)]
    assert steps == [
        {"a": 4, "b": 4},
        {"a": 1, "b": 7},
        {"a": 1, "b": 7},
        {"a": 1, "b": 1},
        {"a": 1},
    ]
    engine.run_until_idle()
    engine.check_finished()


def test_an_unfinished_prefill_samples_nothing():
    """Fails if a chunk in the middle of a prompt asks for a token."""
    engine = make_engine(max_num_batched_tokens=8)
    engine.add("a", prompt(12))
    assert [engine.step().num_samples for _ in range(2)] == [0, 1]


def test_running_requests_come_before_waiting_ones():
    """Fails if a newcomer takes the budget from a request that has begun."""
    engine = make_engine(max_num_batched_tokens=4)
    engine.add("a", prompt(10))
    engine.step()
    engine.add("b", prompt(2, first=1), priority=-1)
    assert num_tokens(engine.step()) == {"a": 4}
    assert num_tokens(engine.step()) == {"a": 2, "b": 2}


def test_bounds_the_running_requests():
    """Fails if max_num_seqs is exceeded, or a place is not given on."""
    engine = make_engine(max_num_seqs=2)
    for request_id in "abc":
        engine.add(request_id, prompt(4, first=ord(request_id)), max_tokens=2)
    assert set(num_tokens(engine.step())) == {"a", "b"}
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (2, 1)
    engine.step()
    assert set(num_tokens(engine.step())) == {"c"}


def test_admits_by_priority_then_arrival():
    """Fails if lower numbers do not go first, or equals do not go in the order they came."""
    engine = make_engine(max_num_seqs=1)
    for request_id, priority in [("a", 1), ("b", 0), ("c", 1), ("d", -1)]:
        engine.add(request_id, prompt(4, first=ord(request_id)), priority=priority, max_tokens=1)
    assert [list(num_tokens(engine.step())) for _ in range(4)] == [["d"], ["b"], ["a"], ["c"]]


def test_admits_a_request_only_where_its_whole_prompt_fits():
    """Fails if a first chunk is let in whose rest would have to preempt, or be preempted."""
    engine = make_engine(num_blocks=8, max_num_batched_tokens=8)
    engine.add("a", prompt(6), max_tokens=3)
    engine.add("b", prompt(25, first=1), max_tokens=1)
    assert num_tokens(engine.step()) == {"a": 6}
    engine.run_until_idle()
    engine.check_finished()
    assert engine.scheduler.stats().num_preemptions == 0


def test_waiting_requests_do_not_preempt():
    """Fails if a request of higher priority throws out a running one to get in."""
    engine = make_engine(num_blocks=4)
    engine.add("a", prompt(8), max_tokens=6, priority=5)
    engine.step()
    engine.add("b", prompt(8, first=1), max_tokens=6)
    while engine.scheduler.num_running == 1 and engine.scheduler.num_waiting == 1:
        engine.step()
    engine.run_until_idle()
    engine.check_finished()
    assert engine.scheduler.stats().num_preemptions == 0


def test_an_admission_leaves_blocks_for_those_who_run():
    """Fails without the reserve: the newcomer would be preempted as soon as `a` needs a block."""
    engine = make_engine(num_blocks=4)
    engine.add("a", prompt(8), max_tokens=8)
    engine.step()
    engine.add("b", prompt(4, first=1), max_tokens=4)
    assert num_tokens(engine.step()) == {"a": 1}
    engine.run_until_idle()
    engine.check_finished()
    assert engine.scheduler.stats().num_preemptions == 0


def crowd(engine: FakeEngine, priorities: list[int]) -> list[Request]:
    """Requests that fit together at first and outgrow 12 blocks of 4 tokens later."""
    return [
        engine.add(str(index), prompt(4, first=index), priority=priority, max_tokens=16)
        for index, priority in enumerate(priorities)
    ]


def run_until_preemption(engine: FakeEngine) -> Batch:
    while engine.scheduler.stats().num_preemptions == 0:
        batch = engine.step()
    return batch


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize(("priorities", "victim"), [([0, 0, 0], 2), ([1, 0, 0], 0), ([0, 1, 0], 1)])
def test_preempts_the_last_in_rank_when_blocks_run_out(priorities, victim, lookahead):
    """Fails if anyone but the newest of the lowest priority pays, or the runner is not told."""
    engine = make_engine(lookahead, num_blocks=12)
    requests = crowd(engine, priorities)
    batch = run_until_preemption(engine)
    assert [r.status is RequestStatus.PREEMPTED for r in requests] == [
        index == victim for index in range(3)
    ]
    assert batch.dropped == [str(victim)]
    assert requests[victim].block_table == []
    engine.run_until_idle()
    engine.check_finished()


def test_preempts_itself_rather_than_a_more_important_one():
    """Fails if the last in rank, being the one that needs a block, takes it from another."""
    engine = make_engine(num_blocks=8, max_num_seqs=2)
    first = engine.add("a", prompt(14), max_tokens=18)
    last = engine.add("b", prompt(7, first=1), max_tokens=12)
    batch = run_until_preemption(engine)
    assert last.status is RequestStatus.PREEMPTED
    assert first.status is RequestStatus.RUNNING
    assert list(num_tokens(batch)) == ["a"]
    engine.run_until_idle()
    engine.check_finished()


def test_a_preempted_request_goes_back_to_its_place():
    """Fails if it queues behind those who came after it."""
    engine = make_engine(num_blocks=12, max_num_seqs=3)
    requests = crowd(engine, [0, 0, 0])
    engine.add("late", prompt(4, first=9))
    run_until_preemption(engine)
    resumed = []
    while "late" not in resumed:
        resumed += [item.request_id for item in engine.step().scheduled if item.new]
    assert resumed == ["2", "late"]
    assert requests[2].num_preemptions == 1


def test_a_resumed_request_comes_whole_and_finds_its_own_prefix():
    """Fails if the runner is not given all tokens and blocks, or full blocks are recomputed."""
    engine = make_engine(num_blocks=12, max_num_seqs=3)
    victim = crowd(engine, [0, 0, 0])[2]
    run_until_preemption(engine)
    num_tokens_then = victim.num_tokens
    while victim.status is RequestStatus.PREEMPTED:
        batch = engine.step()
    item = batch.scheduled[-1]
    assert item.new is not None
    assert len(item.new.token_ids) == num_tokens_then
    assert item.new.num_prompt_tokens == 4
    # Four full blocks came back, tail first, and the other two requests took one each.
    assert item.num_computed_tokens == 8
    assert victim.num_cached_tokens == 0
    assert engine.scheduler.stats().prefix_cache_hits == 0


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("caching", [True, False])
def test_makes_progress_however_small_the_cache(lookahead, caching):
    """Fails on a livelock: requests that preempt each other for ever. Each may fill the cache."""
    engine = make_engine(lookahead, num_blocks=3, block_size=2, enable_prefix_caching=caching)
    for index in range(12):
        engine.add(str(index), prompt(1 + index % 3, first=index), max_tokens=4)
    engine.run_until_idle(max_steps=100)
    engine.check_finished()


def test_ends_with_the_stop_token_or_the_last_token_allowed():
    """Fails if the stop token is cut off, or stopping at max_tokens is called length."""
    tokens, _ = generate_alone(prompt(5), SamplingParams(max_tokens=9))
    for stop_at in range(9):
        engine = make_engine()
        stop = tokens[stop_at]
        request = engine.add("a", prompt(5), max_tokens=9, stop_token_ids=(stop,))
        engine.run_until_idle()
        engine.check_finished()
        assert request.finish_reason is FinishReason.STOP
        assert engine.tokens_of(request)[-1] == stop
    engine = make_engine()
    request = engine.add("a", prompt(5), max_tokens=9)
    engine.run_until_idle()
    assert (request.finish_reason, engine.tokens_of(request)) == (FinishReason.LENGTH, tokens)


def test_shares_the_blocks_of_a_common_prefix():
    """Fails if a prefix is computed again, or if its tokens are not reported as cached."""
    engine = make_engine()
    engine.add("a", prompt(10), max_tokens=1)
    engine.step()
    second = engine.add("b", [*prompt(10), 40, 41], max_tokens=1)
    batch = engine.step()
    assert num_tokens(batch) == {"b": 4}
    assert batch.scheduled[0].num_computed_tokens == 8
    assert len(batch.scheduled[0].new_block_ids) == 3
    assert engine.outputs[second][-1].num_cached_tokens == 8
    stats = engine.scheduler.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (22, 8)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_shares_what_another_request_generated(lookahead):
    """Fails if blocks that fill up while decoding are not registered: a chat's next turn."""
    engine = make_engine(lookahead)
    first = engine.add("a", prompt(6), max_tokens=16)
    engine.run_until_idle()
    second = engine.add("b", [*first.token_ids, 40], max_tokens=1)
    engine.run_until_idle()
    # The 22nd token was sampled, but never computed.
    assert second.num_cached_tokens == 20
    engine.check_finished()


def test_blocks_in_the_making_are_not_shared():
    """Fails if a block is findable before the step that computes it has run."""
    engine = make_engine(lookahead=1)
    engine.add("a", prompt(10), max_tokens=1)
    engine.add("b", prompt(10), max_tokens=1)
    assert num_tokens(engine.step()) == {"a": 10, "b": 10}
    engine.run_until_idle()
    engine.check_finished()


def test_reports_when_a_request_first_ran():
    """Fails if waiting is not told from running, or a resumption counts as the first run."""
    engine = make_engine(num_blocks=12, max_num_seqs=3)
    requests = crowd(engine, [0, 0, 0])
    late = engine.add("late", prompt(4, first=9))
    engine.scheduler.abort("late")
    engine.run_until_idle()
    assert engine.scheduler.stats().num_preemptions > 0
    assert {output.scheduled_s for r in requests for output in engine.outputs[r]} == {1.0}
    assert engine.outputs[late][-1].scheduled_s is None


def test_counts_what_runs_and_what_waits():
    """Fails if a gauge drifts from the queues, or the cache looks used when idle."""
    engine = make_engine(max_num_seqs=1, num_blocks=8)
    engine.add("a", prompt(8), max_tokens=2)
    engine.add("b", prompt(8, first=1), max_tokens=2)
    engine.step()
    stats = engine.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_cache_usage) == (1, 1, 0.25)
    engine.run_until_idle()
    stats = engine.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_cache_usage) == (0, 0, 0.0)


def test_updates_must_come_once_and_in_order():
    """Fails if tokens of one step could be taken for another's."""
    scheduler = Scheduler(make_config())
    sampling = SamplingParams(max_tokens=4)
    scheduler.add(Request(request_id="a", prompt_token_ids=[1], sampling=sampling))
    first, second = scheduler.schedule(), scheduler.schedule()
    with pytest.raises(AssertionError, match="in the order"):
        scheduler.update(second, [1])
    scheduler = Scheduler(make_config())
    scheduler.add(Request(request_id="a", prompt_token_ids=[1], sampling=sampling))
    first = scheduler.schedule()
    with pytest.raises(AssertionError, match="one token for each"):
        scheduler.update(first, [1, 2])
