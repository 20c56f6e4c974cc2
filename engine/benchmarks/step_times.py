"""How long the host works for each step: scheduler and runner as they are, with a clock around."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qoq.engine.engine import Runner, RunningStep
from qoq.engine.grammar import Grammars
from qoq.scheduler.batch import Batch, RequestOutput
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request
from qoq.scheduler.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class HostTimes:
    """Microseconds of a step, on average."""

    schedule_us: float
    submit_us: float
    update_us: float


@dataclass(slots=True)
class StepTimes:
    """Seconds of each call, in order."""

    schedule_s: list[float] = field(default_factory=list)
    submit_s: list[float] = field(default_factory=list)
    update_s: list[float] = field(default_factory=list)

    @property
    def num_submitted(self) -> int:
        return len(self.submit_s)

    def mean_of_last(self, num_steps: int) -> HostTimes:
        parts = (self.schedule_s, self.submit_s, self.update_s)
        return HostTimes(*(1e6 * statistics.fmean(times[-num_steps:]) for times in parts))


@contextmanager
def _clock(times: list[float]) -> Iterator[None]:
    started_s = time.perf_counter()
    yield
    times.append(time.perf_counter() - started_s)


class BenchScheduler(Scheduler):
    """With ``skips_prompts`` set, takes all of a prompt but its last token for computed: contexts
    of any length at once, of whatever the cache holds.
    """

    def __init__(self, config: SchedulerConfig, times: StepTimes) -> None:
        super().__init__(config)
        self.skips_prompts = False
        self._times = times

    def schedule(self) -> Batch:
        with _clock(self._times.schedule_s):
            return super().schedule()

    def update(self, batch: Batch, token_ids: list[int]) -> list[RequestOutput]:
        with _clock(self._times.update_s):
            return super().update(batch, token_ids)

    def _admit(self, request: Request) -> bool:
        is_admitted = super()._admit(request)
        if is_admitted and self.skips_prompts:
            request.num_computed_tokens = len(request.prompt_token_ids) - 1
        return is_admitted


class TimedRunner:
    def __init__(self, runner: Runner, times: StepTimes) -> None:
        self._runner = runner
        self._times = times

    @property
    def grammars(self) -> Grammars:
        return self._runner.grammars

    def submit(self, batch: Batch) -> RunningStep:
        with _clock(self._times.submit_s):
            return self._runner.submit(batch)

    def close(self) -> None:
        self._runner.close()
