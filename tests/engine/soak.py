"""Thousands of requests of every kind through one engine, some of which leave early. Afterwards
nothing may be left of them: no error, no block, no place, no memory."""

from __future__ import annotations

import gc
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psutil
import torch

from qoq.engine.llm import LLM
from qoq.engine.protocol import Pooling, SamplingParams
from qoq.scheduler.batch import RequestOutput
from qoq.scheduler.request import FinishReason, Request

NUM_PHASES = 4
MOST_SILENT_STEPS = 1000
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"presence_penalty": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
    {"logit_bias": ((5, 3.0),), "bad_token_ids": ((7,), (8, 9)), "min_tokens": 2},
    {"allowed_token_ids": tuple(range(64)), "logprobs": 3},
    {"grammar": "start: /[0-9]{1,30}/"},
    {"logprobs": 0, "prompt_logprobs": 1},
    {"max_tokens": 1, "pooling": Pooling.MEAN},
]


@dataclass(frozen=True, kw_only=True)
class SoakLoad:
    """``num_together`` requests are there at a time, and any leaves a step by ``leave_chance``."""

    num_requests: int
    num_together: int
    median_prompt: int
    max_prompt: int
    max_tokens: int
    leave_chance: float = 0.006


@dataclass(frozen=True)
class Held:
    """When nobody is left: bytes of this process and on the device."""

    resident: int
    on_device: int


@dataclass
class Soak:
    """``run`` sends everything in phases and looks, between them, at what is held."""

    llm: LLM
    load: SoakLoad
    random: Random = field(default_factory=lambda: Random(0))
    ends: Counter[FinishReason] = field(default_factory=Counter)
    num_tokens: int = 0
    num_steps: int = 0
    elapsed_s: float = 0.0
    held: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left: dict[str, Request] = {}
        self._num_got: Counter[str] = Counter()
        self._num_added = 0
        length = self.load.max_prompt // 2
        self._prefixes = [self._tokens(self.random.randint(1, length)) for _ in range(8)]

    def run(self) -> None:
        started_s = time.monotonic()
        for _ in range(NUM_PHASES):
            self._run(self.load.num_requests // NUM_PHASES)
            self._check_idle()
            self.held.append(self._settle())
        self.elapsed_s = time.monotonic() - started_s

    def table(self) -> str:
        stats, mib = self.llm.engine.stats(), 2**20
        ends = ", ".join(f"{count} {reason.value}" for reason, count in self.ends.items())
        return "\n".join(
            [
                f"{self.ends.total()} requests in {self.elapsed_s:.1f} s: {ends}",
                f"{self.num_tokens} tokens in {self.num_steps} steps, "
                f"{stats.num_preemptions} preemptions, {stats.prefix_cache_hits} of "
                f"{stats.prefix_cache_queries} prompt tokens from the prefix cache, blocks swapped "
                f"out {stats.num_blocks_swapped_out}, in {stats.num_blocks_swapped_in}",
                "MiB when idle: resident "
                + ", ".join(f"{held.resident / mib:.1f}" for held in self.held)
                + "; on the device "
                + ", ".join(f"{held.on_device / mib:.3f}" for held in self.held),
            ]
        )

    def _run(self, count: int) -> None:
        engine, stop = self.llm.engine, self._num_added + count
        num_silent = 0
        while engine.has_work or self._num_added < stop:
            while len(self._left) < self.load.num_together and self._num_added < stop:
                self._add()
            self._leave()
            outputs = engine.step()
            for output in outputs:
                self._take(output)
            self.num_steps += 1
            num_silent = 0 if outputs else num_silent + 1
            assert num_silent < MOST_SILENT_STEPS, f"{list(self._left)} do not end"

    def _add(self) -> None:
        request = Request(
            request_id=str(self._num_added),
            prompt_token_ids=self._prompt(),
            sampling=self._sampling(),
            priority=self.random.choice((0, 0, 0, -1, 1)),
            arrival_s=time.monotonic(),
        )
        self._num_added += 1
        self._left[request.request_id] = request
        self.llm.engine.add(request)

    def _leave(self) -> None:
        for request_id in list(self._left):
            if self.random.random() < self.load.leave_chance:
                assert self.llm.engine.abort(request_id)

    def _take(self, output: RequestOutput) -> None:
        request = self._left[output.request_id]
        self._num_got[output.request_id] += len(output.token_ids)
        self.num_tokens += len(output.token_ids)
        assert all(0 <= token < self.llm.info.vocab_size for token in output.token_ids)
        wants_logprobs = request.sampling.logprobs is not None and bool(output.token_ids)
        assert (output.extras is not None and output.extras.logprobs is not None) == wants_logprobs
        if output.finish_reason is None:
            assert self._num_got[output.request_id] < request.sampling.max_tokens
            return
        del self._left[output.request_id]
        self.ends[output.finish_reason] += 1
        count, sampling = self._num_got.pop(output.request_id), request.sampling
        if output.finish_reason is FinishReason.LENGTH:
            assert count == sampling.max_tokens
        elif output.finish_reason is FinishReason.STOP:
            assert sampling.min_tokens < count <= sampling.max_tokens
            assert output.token_ids[-1] in sampling.stop_token_ids

    def _prompt(self) -> list[int]:
        length = round(self.random.lognormvariate(0, 1) * self.load.median_prompt)
        length = min(max(length, 1), self.load.max_prompt)
        prefix = self.random.choice([[], [], *self._prefixes])[: length - 1]
        return prefix + self._tokens(length - len(prefix))

    def _sampling(self) -> SamplingParams:
        settings: dict[str, Any] = {
            "max_tokens": self.random.randint(2, self.load.max_tokens),
            "seed": self.random.getrandbits(63),
            "stop_token_ids": self.llm.info.eos_token_ids,
        }
        return SamplingParams(**(settings | self.random.choice(KINDS)))

    def _tokens(self, count: int) -> list[int]:
        return self.random.choices(range(self.llm.info.vocab_size), k=count)

    def _check_idle(self) -> None:
        assert not self._left and not self._num_got
        stats, scheduler = self.llm.engine.stats(), self.llm.engine._scheduler
        assert stats.num_running == stats.num_waiting == stats.kv_cache_usage == 0
        scheduler.check_integrity()

    def _settle(self) -> Held:
        """After a last request alone, so that what runners keep until the next step is the same."""
        self.llm.generate([[1, 2, 3]], SamplingParams(max_tokens=8, temperature=0.0))
        runner: Any = self.llm.engine._runner
        states = getattr(runner, "_runner", runner)._states._states
        assert len(states) == 1, "the runner keeps requests that it was told to drop"
        gc.collect()
        on_device = 0
        if self.llm.info.device != "cpu":
            torch.cuda.synchronize()
            on_device = torch.cuda.memory_allocated()
        return Held(psutil.Process().memory_info().rss, on_device)
