"""Runs one request through a model runner in chunks of our choice, without a scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from qoq.engine.build import build_runner
from qoq.engine.config import EngineConfig
from qoq.engine.cpu.model_runner import ModelRunner
from qoq.engine.protocol import SamplingParams
from qoq.scheduler.batch import Batch, NewRequest, ScheduledRequest

BLOCK_SIZE = 64


def make_runner(model: Path, **settings: object) -> ModelRunner:
    config = EngineConfig(model=model, kv_cache_bytes=2**25, **settings)
    return build_runner(config)[0]


def random_tokens(count: int, vocab_size: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (count,), generator=generator).tolist()


def run_chunks(runner: ModelRunner, tokens: list[int], chunks: Iterable[int]) -> Tensor:
    """Logits ``[len(tokens), V]``. Blocks lie in the cache in descending order, first one last."""
    new = NewRequest(tokens, len(tokens), SamplingParams(max_tokens=1))
    table = list(range(ceil(len(tokens) / BLOCK_SIZE)))[::-1]
    logits, start = [], 0
    for count in chunks:
        item = ScheduledRequest("r", start, count, False, [] if start else table, None)
        if not start:
            item = ScheduledRequest("r", 0, count, False, table, new)
        logits.append(runner.logits(Batch([item], []), range(count)))
        start += count
    assert start == len(tokens)
    return torch.cat(logits)
