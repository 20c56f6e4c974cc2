"""``separates_output``: output tokens are computed as output, one a step, whatever happens.

``FakeRunner`` tells apart in every slot whether its token was computed as prompt or as output.
"""

from __future__ import annotations

import pytest

from qoq.scheduler import scheduler
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request, SamplingParams

from .fake_runner import FakeEngine, generate_alone


def make_engine(num_blocks: int, lookahead: int = 0, separates_output: bool = True) -> FakeEngine:
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=8,
        max_num_batched_tokens=32,
        max_model_len=128,
        separates_output=separates_output,
    )
    return FakeEngine(config, lookahead)


def answer(prompt: list[int], max_tokens: int) -> list[int]:
    return generate_alone(prompt, SamplingParams(max_tokens=max_tokens))[0]


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_RESERVED_STEPS", 0)


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_resumed_request_computes_its_output_as_it_came(lookahead: int):
    engine = make_engine(12, lookahead)
    for index in range(3):
        engine.add(str(index), [index, 8, 9], max_tokens=12)
    counts: dict[str, list[int]] = {"0": [], "1": [], "2": []}
    while engine.scheduler.has_work:
        for item in engine.step().scheduled:
            counts[item.request_id].append(item.num_scheduled_tokens)
    engine.check_finished()
    assert engine.scheduler.stats().num_preemptions > 0
    assert counts["0"] == [3] + [1] * 11
    resumed = counts["2"]
    assert max(resumed[1:]) <= 3 and len(resumed) > 13  # its prompt again, then one by one


@pytest.mark.parametrize(("separates_output", "hits"), [(True, 4), (False, 8)])
def test_only_a_prompt_is_shared(separates_output: bool, hits: int):
    engine = make_engine(32, separates_output=separates_output)
    first = engine.add("first", [1, 2, 3, 4], max_tokens=6)
    engine.run_until_idle()
    second = engine.add("second", [*first.token_ids, 5], max_tokens=2)
    engine.run_until_idle()
    engine.check_finished()
    assert second.num_cached_tokens == hits


def preempted_beside_its_next_turn(engine: FakeEngine) -> Request:
    """A client sends a conversation on, while another copy of it is still being answered."""
    prompt = [1, 2, 3]
    victim = engine.add("victim", prompt, max_tokens=16)
    for _ in range(6):
        engine.step()
    engine.add("other", [9] * 4, max_tokens=8, priority=-1)
    engine.add("next turn", prompt + answer(prompt, 4), max_tokens=8, priority=-1)
    engine.run_until_idle()
    return victim


def test_output_is_not_found_in_another_request_s_prompt():
    """A resumed request looked for all its tokens, and took blocks that prefill had computed."""
    engine = make_engine(12)
    victim = preempted_beside_its_next_turn(engine)
    assert victim.num_preemptions == 1
    engine.check_finished()
