"""An engine to measure: the step loop of serving, driven from here."""

from __future__ import annotations

import time

from qoq.engine.benchmarks.step_times import BenchScheduler, StepTimes, TimedRunner
from qoq.engine.build import load_runner, scheduler_config
from qoq.engine.config import EngineConfig
from qoq.engine.engine import Engine
from qoq.engine.heap import spare_collector
from qoq.scheduler.request import Request, SamplingParams

# Tokens that requests may get which are held at a context.
HELD_TOKENS = 64


class BenchEngine:
    def __init__(self, config: EngineConfig) -> None:
        started_s = time.monotonic()
        runner, self.info = load_runner(config)
        self.ready_s = time.monotonic() - started_s
        self.times = StepTimes()
        self.scheduler_config = scheduler_config(config, self.info)
        self._scheduler = BenchScheduler(self.scheduler_config, self.times)
        timed = TimedRunner(runner, self.times)
        self._engine = Engine(self._scheduler, timed, config.steps_in_flight)
        self._num_requests = 0
        spare_collector()  # as the engine's process does

    def close(self) -> None:
        self._engine.close()

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.info.block_size)

    def largest_batch(self, num_tokens: int) -> int:
        """Requests of ``num_tokens`` that the cache holds entirely and a step can run."""
        limits, fits = self.scheduler_config, self.info.num_blocks // self.blocks_for(num_tokens)
        return min(fits, limits.max_num_seqs, limits.max_num_batched_tokens)

    def generate(self, prompts: list[list[int]], output_len: int) -> list[list[float]]:
        """Run all together, greedily; when each got its tokens (monotonic seconds, one a step)."""
        streams: dict[str, list[float]] = {self.add(p, output_len): [] for p in prompts}
        while self._engine.has_work:
            outputs, now_s = self._engine.step(), time.monotonic()
            for output in outputs:
                streams[output.request_id] += [now_s] * len(output.token_ids)
        return list(streams.values())

    def hold(self, batch: int, context: int) -> int:
        """Let ``batch`` requests decode at ``context`` without computing it; how many run at a
        time. Each gets at most ``HELD_TOKENS``.
        """
        self._scheduler.skips_prompts = True
        for _ in range(batch):
            self.add([0] * context, HELD_TOKENS)
        before = -1
        while self._scheduler.num_waiting and self._scheduler.num_running > before:
            before = self._scheduler.num_running
            self._engine.step()
        self._scheduler.skips_prompts = False
        return self._scheduler.num_running

    def release(self) -> None:
        """End all requests."""
        for index in range(self._num_requests):
            self._scheduler.abort(_name(index))
        while self._engine.has_work:
            self._engine.step()

    def run_steps(self, count: int) -> float:
        """Seconds; a step is over once its tokens are here."""
        started_s = time.perf_counter()
        for _ in range(count):
            self._engine.step()
        return time.perf_counter() - started_s

    def add(self, prompt: list[int], max_tokens: int) -> str:
        """Its id."""
        request_id = _name(self._num_requests)
        self._num_requests += 1
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        self._engine.add(
            Request(
                request_id=request_id,
                prompt_token_ids=prompt,
                sampling=sampling,
                arrival_s=time.monotonic(),
            )
        )
        return request_id


def _name(index: int) -> str:
    return f"bench-{index}"
