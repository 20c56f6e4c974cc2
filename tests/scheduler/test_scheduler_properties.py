"""Random arrivals, priorities, aborts, preemptions, stops and shared prefixes, for long.

``FakeEngine`` checks every step: block accounting, order of admission and preemption, and that
each earlier token of each scheduled request lies in its slot. At the end every request must have
finished once, with the tokens it yields alone.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from qoq.scheduler import scheduler
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import SamplingParams

from .fake_runner import VOCAB_SIZE, FakeEngine, generate_alone

MAX_MODEL_LEN = 48
NUM_STEPS = 2_000
# Prompts begin like one of these, so that prefixes are shared often and part at random places.
TRUNKS = [[7] * 40, [*range(40)], [*range(20), *[7] * 20]]
IDS = [f"request-{index}" for index in range(10)]


def fits(config: SchedulerConfig, num_prompt: int, max_tokens: int) -> bool:
    num_slots = config.num_blocks * config.block_size
    return num_prompt + max_tokens <= MAX_MODEL_LEN and num_prompt + max_tokens - 1 <= num_slots


def try_to_add(engine: FakeEngine, config: SchedulerConfig, request_id: str, **what) -> None:
    is_possible = request_id not in engine.live and fits(
        config, len(what["prompt"]), what["max_tokens"]
    )
    if is_possible:
        engine.add(request_id, **what)
    else:
        with pytest.raises(ValueError, match="request_id|max_model_len|KV cache"):
            engine.add(request_id, **what)


class SchedulerMachine(RuleBasedStateMachine):
    """Lets hypothesis search for, and shrink, a sequence of calls that breaks an invariant."""

    @initialize(
        num_blocks=st.integers(2, 16),
        block_size=st.integers(1, 4),
        max_num_seqs=st.integers(1, 6),
        max_num_batched_tokens=st.integers(1, 24),
        num_host_blocks=st.sampled_from([0, 1, 3, 8, 40]),
        enable_prefix_caching=st.booleans(),
        separates_output=st.booleans(),
        lookahead=st.integers(0, 2),
    )
    def start(self, lookahead, **limits):
        self.config = SchedulerConfig(max_model_len=MAX_MODEL_LEN, **limits)
        self.engine = FakeEngine(self.config, lookahead)

    @rule(
        request_id=st.sampled_from(IDS),
        trunk=st.sampled_from(TRUNKS),
        num_shared=st.sampled_from([0, 6, 12]),
        tail=st.lists(st.integers(0, 3), min_size=1, max_size=6),
        priority=st.integers(-1, 1),
        max_tokens=st.integers(1, 20),
        stop_token_ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=4).map(tuple),
    )
    def add(self, request_id, trunk, num_shared, tail, **what):
        prompt = trunk[:num_shared] + tail
        try_to_add(self.engine, self.config, request_id, prompt=prompt, **what)

    @rule(
        request_id=st.sampled_from(IDS),
        other=st.sampled_from(IDS),
        num_output=st.integers(1, 16),
        priority=st.integers(-1, 1),
    )
    def add_next_turn(self, request_id, other, num_output, priority):
        """A prompt that holds what another request has answered, or is about to."""
        if request := self.engine.live.get(other):
            answer = SamplingParams(max_tokens=num_output)
            prompt = request.prompt_token_ids + generate_alone(request.prompt_token_ids, answer)[0]
            what = {"prompt": prompt, "priority": priority, "max_tokens": 3}
            try_to_add(self.engine, self.config, request_id, **what)

    @rule(num_steps=st.integers(1, 6))
    def step(self, num_steps):
        for _ in range(num_steps):
            self.engine.step()

    @precondition(lambda self: self.engine.pending)
    @rule()
    def update_early(self):
        self.engine.update()

    @rule(request_id=st.sampled_from(IDS))
    def abort(self, request_id):
        is_live = request_id in self.engine.live
        assert self.engine.scheduler.abort(request_id) == is_live
        self.engine.receive(self.engine.scheduler.take_outputs())

    @rule()
    def fail(self):
        self.engine.scheduler.abort_all()
        self.engine.pending.clear()
        self.engine.receive(self.engine.scheduler.take_outputs())

    def teardown(self):
        if hasattr(self, "engine"):
            self.engine.run_until_idle()
            self.engine.check_finished()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def act_at_random(engine: FakeEngine, config: SchedulerConfig, chance: random.Random) -> None:
    """Between two steps: perhaps a request comes, perhaps one is given up."""
    if chance.random() < 0.35:
        prompt = chance.choice(TRUNKS)[: chance.randrange(12)]
        try_to_add(
            engine,
            config,
            f"request-{chance.randrange(40)}",
            prompt=prompt + [chance.randrange(4) for _ in range(chance.randrange(1, 8))],
            priority=chance.choice([0, 0, 0, -1, 1]),
            max_tokens=chance.randrange(1, 28),
            stop_token_ids=tuple(chance.sample(range(VOCAB_SIZE), chance.choice([0, 0, 3]))),
        )
    if engine.live and chance.random() < 0.04:
        assert engine.scheduler.abort(chance.choice(sorted(engine.live)))


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("reserved_steps", [0, 8])
@pytest.mark.parametrize(
    ("num_blocks", "block_size", "max_num_batched_tokens", "num_host_blocks"),
    [
        (48, 1, 9, 0),
        (16, 3, 16, 0),
        (12, 4, 64, 0),
        (40, 4, 6, 0),
        (48, 1, 9, 30),
        (12, 4, 64, 10),
    ],
)
def test_thousands_of_steps_under_pressure(
    num_blocks,
    block_size,
    max_num_batched_tokens,
    num_host_blocks,
    reserved_steps,
    caching,
    lookahead,
    monkeypatch,
):
    """Fails if anything above is wrong, if a request starves, or if no pressure ever arose.

    Without reserved blocks preemptions are many, and must be as harmless.
    """
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", reserved_steps)
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_seqs=8,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=MAX_MODEL_LEN,
        num_host_blocks=num_host_blocks,
        enable_prefix_caching=caching,
    )
    engine = FakeEngine(config, lookahead)
    chance = random.Random(f"{config} {lookahead} {reserved_steps}")
    for _ in range(NUM_STEPS):
        act_at_random(engine, config, chance)
        engine.step()
    engine.run_until_idle()
    engine.check_finished()
    stats = engine.scheduler.stats()
    assert len(engine.outputs) > NUM_STEPS / 15
    assert (stats.prefix_cache_hits > 0) == caching
    assert (stats.num_blocks_swapped_in > 0) == (num_host_blocks > 0)
    assert stats.num_preemptions > NUM_STEPS / 50 or num_blocks * block_size > 100
