"""How long the host waits for tokens that it must look at."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.engine.gpu.running_step import GpuRunningStep, RunningSteps
from qoq.engine.request_state import RequestState
from qoq.scheduler.request import SamplingParams


def state() -> RequestState:
    return RequestState([1, 2], 2, SamplingParams(max_tokens=9), None, None)


def step(**tokens: tuple[RequestState, int]) -> GpuRunningStep:
    states = [state for state, _ in tokens.values()]
    sampled = torch.tensor([token for _, token in tokens.values()])
    return GpuRunningStep(sampled, list(tokens), states, None)


def test_waits_for_the_step_that_has_the_token_and_those_before_it():
    a, b = state(), state()
    steps = [step(a=(a, 5)), step(a=(a, 6), b=(b, 7)), step(a=(a, 8), b=(b, 9)), step(a=(a, 3))]
    running = RunningSteps()
    for each in steps:
        running.add(each)
    running.wait_for(a, 2)
    assert not any(each.is_known for each in steps)
    running.wait_for(b, 3)
    assert [each.is_known for each in steps] == [True, True, False, False]
    assert (a.token_ids, b.token_ids) == ([1, 2, 5, 6], [1, 2, 7])
    running.wait_for(a, 6)
    assert (a.token_ids, b.token_ids) == ([1, 2, 5, 6, 8, 3], [1, 2, 7, 9])
    assert steps[1].result().token_ids == [6, 7]


def test_any_number_of_steps_may_run():
    a, running = state(), RunningSteps()
    for token in range(20):
        running.add(step(a=(a, token)))
    running.wait_for(a, 22)
    assert a.token_ids == [1, 2, *range(20)]
