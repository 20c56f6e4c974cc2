"""The step loop: schedule, run, update, with one step in flight while the next is prepared."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Protocol

from qoq.engine.grammar import Grammars
from qoq.engine.step_result import StepResult
from qoq.scheduler.batch import Batch, RequestOutput
from qoq.scheduler.request import Request, SamplingParams
from qoq.scheduler.scheduler import Scheduler
from qoq.scheduler.stats import SchedulerStats


class RunningStep(Protocol):
    def result(self) -> StepResult:
        """Waits for the device. Raises what the step raised."""


class Runner(Protocol):
    """Runs steps in the order given; a step may continue a request whose last token it sampled."""

    @property
    def grammars(self) -> Grammars: ...

    def submit(self, batch: Batch) -> RunningStep:
        """Start a step and return, if the device allows, before it is done."""

    def close(self) -> None: ...


class Engine:
    """Owns the scheduler and the runner."""

    def __init__(self, scheduler: Scheduler, runner: Runner, steps_in_flight: int) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._steps_in_flight = steps_in_flight
        self._in_flight: deque[tuple[Batch, RunningStep]] = deque()

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()

    def prepare(self, sampling: SamplingParams) -> None:
        """Compile the grammar, if any: slow, so in another thread than ``step``'s if possible.

        Raises ValueError where it is not valid.
        """
        if sampling.grammar is not None:
            self._runner.grammars.compile(sampling.grammar)

    def add(self, request: Request) -> None:
        """Queue a request. Raises ValueError where it can never run."""
        self.prepare(request.sampling)
        self._scheduler.add(request)

    def abort(self, request_id: str) -> bool:
        """End a request by the next step; False where there is none of that id."""
        return self._scheduler.abort(request_id)

    def step(self) -> list[RequestOutput]:
        """Submit the next step and, once enough are in flight, wait for the oldest."""
        batch = self._scheduler.schedule()
        if batch.scheduled:
            self._in_flight.append((batch, self._runner.submit(batch)))
        is_full = len(self._in_flight) >= self._steps_in_flight
        if self._in_flight and (is_full or not batch.scheduled):
            batch, running = self._in_flight.popleft()
            result = running.result()
            return _with_extras(self._scheduler.update(batch, result.token_ids), result)
        return self._scheduler.take_outputs()

    def close(self) -> None:
        self._runner.close()


def _with_extras(outputs: list[RequestOutput], result: StepResult) -> list[RequestOutput]:
    """An output without a token is another request's that had the same id."""
    if not result.extras:
        return outputs
    return [
        replace(output, extras=result.extras.get(output.request_id)) if output.token_ids else output
        for output in outputs
    ]
