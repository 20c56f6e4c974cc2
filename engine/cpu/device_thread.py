"""The CPU as a device: one thread that runs what it is given, in order."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from qoq.engine.cpu.model_runner import ModelRunner
from qoq.engine.grammar import Grammars
from qoq.engine.step_result import StepResult
from qoq.scheduler.batch import Batch


class DeviceThread:
    """Runs the steps of ``runner`` in ``thread``, an executor of one worker, which it owns.

    Everything that uses torch runs in that thread, loading too. OpenMP keeps a team of threads for
    every thread that asks for one, and with two teams on the same cores its barriers sleep instead
    of spin: a decode step took 95 ms in place of 54.
    """

    def __init__(self, runner: ModelRunner, thread: ThreadPoolExecutor) -> None:
        self._runner = runner
        self._thread = thread

    @property
    def grammars(self) -> Grammars:
        return self._runner.grammars

    def submit(self, batch: Batch) -> Future[StepResult]:
        return self._thread.submit(self._runner.run, batch)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
