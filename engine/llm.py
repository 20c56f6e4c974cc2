"""Offline use of the engine: token ids in, token ids out, the same step loop as in serving."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from qoq.engine.build import build_engine
from qoq.engine.config import EngineConfig
from qoq.scheduler.batch import RequestOutput, TokenLogprobs
from qoq.scheduler.request import FinishReason, Request, SamplingParams


@dataclass(slots=True)
class Completion:
    """What one prompt gave. ``token_times_s`` are monotonic times, one a token.

    ``logprobs``, ``prompt_logprobs`` and ``embedding`` are empty where they were not asked for.
    """

    token_ids: list[int] = field(default_factory=list)
    token_times_s: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    embedding: list[float] = field(default_factory=list)

    def add(self, output: RequestOutput) -> None:
        self.token_ids += output.token_ids
        self.token_times_s += [time.monotonic()] * len(output.token_ids)
        self.finish_reason = output.finish_reason
        if output.extras is not None:
            self.logprobs += output.extras.logprobs or []
            self.prompt_logprobs += output.extras.prompt_logprobs or []
            self.embedding += output.extras.embedding or []


class LLM:
    """``LLM(EngineConfig(model=folder)).generate(prompts, sampling)``."""

    def __init__(self, config: EngineConfig) -> None:
        self.engine, self.info = build_engine(config)
        self._num_requests = 0

    def generate(
        self, prompts: Sequence[list[int]], sampling: SamplingParams | Sequence[SamplingParams]
    ) -> list[Completion]:
        """Run all prompts together and return their completions in order.

        Raises:
            ValueError: a prompt that is empty or does not fit; nothing has run then.
        """
        if isinstance(sampling, SamplingParams):
            sampling = [sampling] * len(prompts)
        completions = {}
        for prompt, params in zip(prompts, sampling, strict=True):
            completions[self._add(prompt, params)] = Completion()
        while self.engine.has_work:
            for output in self.engine.step():
                completions[output.request_id].add(output)
        return list(completions.values())

    def close(self) -> None:
        self.engine.close()

    def _add(self, prompt: list[int], sampling: SamplingParams) -> str:
        request_id = f"offline-{self._num_requests}"
        self._num_requests += 1
        self.engine.add(
            Request(
                request_id=request_id,
                prompt_token_ids=prompt,
                sampling=sampling,
                arrival_s=time.monotonic(),
            )
        )
        return request_id
