"""Requests that are submitted at once, and an engine that is large enough for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qoq.engine.benchmarks.bench_engine import HELD_TOKENS, BenchEngine
from qoq.engine.benchmarks.best_batch import best_batch
from qoq.engine.benchmarks.model_size import ModelSize
from qoq.engine.build import runs_on_gpu
from qoq.engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class OfflineLoad:
    """Random prompts and greedy output of so many tokens; ``batch`` None: what fits best."""

    input_len: int
    output_len: int
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("input_len", 1), ("output_len", 2), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag}: expected at least {least}, got {value}")

    @property
    def num_tokens(self) -> int:
        return self.input_len + self.output_len

    @property
    def mean_context(self) -> int:
        return self.input_len + self.output_len // 2


def config_for(config: EngineConfig, load: OfflineLoad, size: ModelSize) -> EngineConfig:
    """With room for ``load`` and no more. Raises ValueError where it exceeds a limit."""
    limit, step_tokens = size.max_position_embeddings, config.step_tokens(runs_on_gpu(config))
    if load.num_tokens > limit:
        raise ValueError(
            f"--input-len {load.input_len} and --output-len {load.output_len} together exceed the "
            f"model's own limit of {limit} tokens; lower one"
        )
    if load.batch is not None and load.batch > step_tokens:
        raise ValueError(
            f"--batch {load.batch} exceeds the {step_tokens} tokens of a step; raise "
            "--max-num-batched-tokens"
        )
    return replace(
        config,
        max_model_len=min(load.num_tokens + HELD_TOKENS, limit),
        max_num_seqs=load.batch or min(config.max_num_seqs, step_tokens),
    )


def choose_batch(engine: BenchEngine, load: OfflineLoad) -> int:
    """Raises ValueError, with the numbers, where the KV cache does not hold the load entirely."""
    largest, wanted = engine.largest_batch(load.num_tokens), load.batch or 1
    if wanted > largest:
        raise ValueError(
            f"--batch {wanted} does not fit: the KV cache has {engine.info.num_blocks} blocks of "
            f"{engine.info.block_size} tokens and a request of {load.num_tokens} tokens takes "
            f"{engine.blocks_for(load.num_tokens)}, so at most {largest} fit; lower --batch, "
            "--input-len or --output-len"
        )
    # Where requests are held that long, they take no more blocks than the load.
    context = min(load.mean_context, load.num_tokens - HELD_TOKENS)
    return load.batch or (best_batch(engine, largest, context) if context > 0 else largest)
