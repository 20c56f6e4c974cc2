"""Predictions by the engine: its kernels, its paged quantized cache, its chunked prefill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from tqdm import tqdm

from qoq.engine.build import build_runner
from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.cpu.model_runner import ModelRunner
from qoq.engine.models.config import parse_model_config
from qoq.engine.models.loader import kv_format
from qoq.engine.protocol import EngineInfo, SamplingParams
from qoq.quantize.evaluation.passage import Passage, Predictions, Score
from qoq.scheduler.batch import Batch, ScheduledRequest
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request
from qoq.scheduler.scheduler import Scheduler

STEP_TOKENS = 512
# Rows of logits that are looked at together. Of 49152 tokens they are 6 MB and stay in the cache.
LOGIT_ROWS = 32
# Short passages share a step, and each holds blocks that it does not fill.
CACHE_PASSAGES = 2


class Scorer:
    """Gives out predictions step by step; never holds the logits of more than one step."""

    def __init__(
        self,
        runner: ModelRunner,
        info: EngineInfo,
        *,
        step_tokens: int = STEP_TOKENS,
        progress: bool = False,
    ) -> None:
        self.info = info
        self.num_tokens = 0
        self.seconds = 0.0
        self._runner = runner
        self._step_tokens = step_tokens
        self._progress = progress

    @classmethod
    def load(
        cls, folder: Path, precision: str | None, max_tokens: int, *, progress: bool = False
    ) -> Self:
        """With a cache for passages of ``max_tokens``, or of what the model allows.

        Raises CheckpointError, OutOfMemoryError or ValueError as ``build_engine`` does.
        """
        checkpoint = Checkpoint(folder)
        model = parse_model_config(checkpoint.config)
        fmt = kv_format(model, checkpoint.precision_for(precision))
        max_tokens = min(max_tokens, model.max_position_embeddings)
        blocks = CACHE_PASSAGES * ceil(max_tokens / fmt.block_size)
        config = EngineConfig(
            model=folder,
            precision=precision,
            max_model_len=max_tokens,
            kv_cache_bytes=blocks * fmt.block_bytes * model.num_layers,
        )
        runner, info, _ = build_runner(config)
        return cls(runner, info, progress=progress)

    def predictions(self, passages: Sequence[Passage], label: str = "") -> Iterator[Predictions]:
        """Of all targets, in order; passages and steps are cut the same way for every model.

        Raises ValueError for a passage that has no target or is too long.
        """
        for passage in passages:
            self._check(passage)
        prompts = [passage.tokens[:-1] for passage in passages]
        scheduler = self._scheduler(prompts, SamplingParams(max_tokens=1))
        total = sum(len(prompt) for prompt in prompts)
        with tqdm(total=total, desc=label, unit="token", disable=not self._progress) as bar:
            while scheduler.has_work:
                batch = scheduler.schedule()
                yield from self._predict(batch, passages)
                scheduler.update(batch, [0] * batch.num_samples)
                bar.update(batch.num_tokens)
        assert not scheduler.stats().num_preemptions, "a passage was predicted twice"

    def scores(self, passages: Sequence[Passage], label: str = "") -> list[Score]:
        """One for each passage, in order."""
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in passages]
        for part in self.predictions(passages, label):
            found[part.index].append((part.log_likelihoods, part.logits.argmax(dim=-1)))
        return [Score(*map(torch.cat, zip(*parts, strict=True))) for parts in found]

    def continuations(self, prompts: Sequence[list[int]], num_tokens: int) -> list[list[int]]:
        """Greedy, ``num_tokens`` or up to an end-of-sequence token, as the engine serves them."""
        sampling = SamplingParams(
            max_tokens=num_tokens, temperature=0.0, stop_token_ids=self.info.eos_token_ids
        )
        scheduler = self._scheduler(prompts, sampling)
        continuations: list[list[int]] = [[] for _ in prompts]
        while scheduler.has_work:
            batch = scheduler.schedule()
            for output in scheduler.update(batch, self._runner.run(batch).token_ids):
                continuations[int(output.request_id)] += output.token_ids
        return continuations

    def _scheduler(self, prompts: Sequence[list[int]], sampling: SamplingParams) -> Scheduler:
        scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=self.info.num_blocks,
                block_size=self.info.block_size,
                max_num_seqs=self._step_tokens,
                max_num_batched_tokens=self._step_tokens,
                max_model_len=self.info.max_model_len,
                enable_prefix_caching=False,
            )
        )
        for index, prompt in enumerate(prompts):
            scheduler.add(
                Request(request_id=str(index), prompt_token_ids=prompt, sampling=sampling)
            )
        return scheduler

    def _predict(self, batch: Batch, passages: Sequence[Passage]) -> Iterator[Predictions]:
        targets = [_targets(item, passages[int(item.request_id)]) for item in batch.scheduled]
        sizes = [len(part) for part in targets]
        ends = accumulate(item.num_scheduled_tokens for item in batch.scheduled)
        rows = [row for end, n in zip(ends, sizes, strict=True) for row in range(end - n, end)]
        logits = self._logits(batch, rows).split(sizes)
        for item, part, found in zip(batch.scheduled, targets, logits, strict=True):
            pieces = torch.tensor(part, dtype=torch.int64).split(LOGIT_ROWS)
            for piece, few in zip(pieces, found.split(LOGIT_ROWS), strict=True):
                yield Predictions(int(item.request_id), piece, few)

    def _logits(self, batch: Batch, rows: list[int]) -> Tensor:
        started_s = time.monotonic()
        logits = self._runner.logits(batch, rows)
        self.seconds += time.monotonic() - started_s
        self.num_tokens += batch.num_tokens
        return logits

    def _check(self, passage: Passage) -> None:
        if not 1 <= passage.first < len(passage.tokens):
            raise ValueError(
                f"a passage of {len(passage.tokens)} tokens has no token to predict from "
                f"{passage.first} on"
            )
        if len(passage.tokens) > self.info.max_model_len:
            raise ValueError(
                f"a passage of {len(passage.tokens)} tokens exceeds the {self.info.max_model_len} "
                f"that {self.info.model} takes; use a smaller --window"
            )


def _targets(item: ScheduledRequest, passage: Passage) -> list[int]:
    """The targets that the last tokens of ``item`` predict, as many as they are."""
    return passage.tokens[max(item.num_computed_tokens + 1, passage.first) : item.end + 1]
