import pytest

from qoq.engine.benchmarks.step_times import BenchScheduler, HostTimes, StepTimes
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request, SamplingParams

CONFIG = SchedulerConfig(
    num_blocks=20, block_size=16, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=200
)


def request(request_id: str) -> Request:
    sampling = SamplingParams(max_tokens=8)
    return Request(request_id=request_id, prompt_token_ids=[0] * 100, sampling=sampling)


def test_a_skipped_prompt_runs_its_last_token_over_blocks_for_all_of_it():
    scheduler = BenchScheduler(CONFIG, StepTimes())
    scheduler.skips_prompts = True
    scheduler.add(request("a"))
    scheduler.add(request("b"))
    batch = scheduler.schedule()
    assert [item.request_id for item in batch.scheduled] == ["a", "b"]
    for item in batch.scheduled:
        assert (item.num_computed_tokens, item.num_scheduled_tokens) == (99, 1)
        assert item.samples and len(item.new_block_ids) == 7
    scheduler.update(batch, [1, 1])
    scheduler.check_integrity()


def test_a_prompt_that_is_not_skipped_starts_at_its_beginning():
    scheduler = BenchScheduler(CONFIG, StepTimes())
    scheduler.add(request("a"))
    [item] = scheduler.schedule().scheduled
    assert (item.num_computed_tokens, item.num_scheduled_tokens) == (0, 64)


def test_times_are_noted_for_each_call_and_averaged_over_the_last():
    times = StepTimes(schedule_s=[9, 1e-6, 3e-6], submit_s=[9, 4e-6, 4e-6], update_s=[9, 5e-6, 0])
    assert times.mean_of_last(2) == HostTimes(*map(pytest.approx, (2, 4, 2.5)))
    scheduler = BenchScheduler(CONFIG, times)
    scheduler.schedule()
    assert (len(times.schedule_s), times.num_submitted) == (4, 3)
    assert 0 < times.schedule_s[-1] < 1
