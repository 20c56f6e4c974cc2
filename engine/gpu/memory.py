"""What is left of a GPU's memory for the KV cache, and the sentences for when it is too little."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qoq.engine.config import EngineConfig
from qoq.engine.memory import MemoryPlan, OutOfMemoryError, gib, wanted_model_len

logger = logging.getLogger(__name__)


def plan_gpu_memory(
    config: EngineConfig,
    *,
    total_bytes: int,
    free_bytes: int,
    step_bytes: int,
    buffer_bytes: int,
    bytes_per_block: int,
    block_size: int,
    model_limit: int,
) -> MemoryPlan:
    """``free_bytes`` are free with the weights loaded; a step takes ``step_bytes`` at most, and
    ``buffer_bytes`` are taken for good beside the cache.

    Raises:
        OutOfMemoryError: the cache would not hold one request; the message has the arithmetic.
        ValueError: ``max_model_len`` exceeds the model's own limit.
    """
    reserved = int(total_bytes * (1 - config.gpu_memory_utilization))
    left = free_bytes - step_bytes - buffer_bytes - reserved
    cache_bytes = left if config.kv_cache_bytes is None else config.kv_cache_bytes
    arithmetic = (
        f"{gib(total_bytes)} of the GPU - {gib(total_bytes - free_bytes)} weights and others' - "
        f"{gib(step_bytes)} a step of {config.step_tokens(is_gpu=True)} tokens - "
        f"{gib(buffer_bytes)} buffers and graphs - {gib(reserved)} reserve = "
        f"{gib(left)} for the KV cache"
    )
    wanted = wanted_model_len(config, model_limit)
    if cache_bytes > left:
        raise OutOfMemoryError(
            f"--kv-cache-bytes {gib(cache_bytes)} does not fit: {arithmetic}; lower it or leave it "
            "out"
        )
    num_blocks = max(cache_bytes, 0) // bytes_per_block
    capacity = num_blocks * block_size
    if config.kv_cache_bytes is not None and capacity < (needed := config.max_model_len or 1):
        raise OutOfMemoryError(
            f"--kv-cache-bytes {gib(cache_bytes)} holds {capacity} tokens at {bytes_per_block} "
            f"bytes a block of {block_size}, fewer than {needed}; raise it to at least "
            f"{-(-needed // block_size) * bytes_per_block}, or lower --max-model-len"
        )
    if capacity < (config.max_model_len or 1):
        raise OutOfMemoryError(
            f"not enough memory: {arithmetic}, {capacity} tokens at {bytes_per_block} bytes a "
            f"block of {block_size}; lower --max-model-len, --max-num-seqs or "
            "--max-num-batched-tokens, or use a larger GPU"
        )
    logger.info("%s: %d tokens, %d blocks", arithmetic, capacity, num_blocks)
    return MemoryPlan(num_blocks, min(wanted, capacity))


@contextmanager
def explain_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Torch's error as an OutOfMemoryError of one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        held = gib(torch.cuda.memory_allocated())
        raise OutOfMemoryError(
            f"not enough memory for {what}: of {gib(total_bytes)} of the GPU, the engine holds "
            f"{held} already and {gib(free_bytes)} is free; {advice}"
        ) from None
