"""An engine process whose device fails: without a model, by the name of its model folder.

``submit``, ``result``: the third step raises there. ``hang``: and ``close`` never returns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from qoq.engine import process
from qoq.engine.config import EngineConfig
from qoq.engine.engine import Engine
from qoq.engine.grammar import Grammars
from qoq.engine.protocol import EngineInfo
from qoq.engine.step_result import StepResult
from qoq.scheduler.batch import Batch
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.scheduler import Scheduler

MESSAGE = "CUDA error: an illegal memory access was encountered"
INFO = EngineInfo(
    model="failing",
    max_model_len=512,
    vocab_size=96,
    eos_token_ids=(),
    bos_token_id=None,
    num_blocks=64,
    block_size=64,
    precision="w4a8kv4",
    device="Fake",
)


def fail() -> None:
    raise RuntimeError(f"{MESSAGE}\nCUDA kernel errors might be asynchronously reported.")


@dataclass
class FailingStep:
    num_tokens: int
    fails: bool

    def result(self) -> StepResult:
        if self.fails:
            fail()
        return StepResult([7] * self.num_tokens, {})


class FailingRunner:
    grammars = Grammars("{}", 96, ())

    def __init__(self, place: str) -> None:
        self._place = place
        self._num_steps = 0

    def submit(self, batch: Batch) -> FailingStep:
        self._num_steps += 1
        is_last = self._num_steps == 3
        if is_last and self._place == "submit":
            fail()
        return FailingStep(batch.num_samples, is_last)

    def close(self) -> None:
        """A device that failed fails again, or is never done."""
        while self._place == "hang":
            time.sleep(1)
        fail()


def build(config: EngineConfig) -> tuple[Engine, EngineInfo]:
    limits = SchedulerConfig(
        num_blocks=INFO.num_blocks,
        block_size=INFO.block_size,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=INFO.max_model_len,
    )
    return Engine(Scheduler(limits), FailingRunner(config.model.name), 2), INFO


def run(config: EngineConfig, inbox_address: str, outbox_address: str) -> None:
    process.build_engine = build
    process.run_process(config, inbox_address, outbox_address)
