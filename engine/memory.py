"""Does it fit? The arithmetic of host memory, and the sentence for when it does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qoq.engine.config import CPU_KV_CACHE_BYTES, EngineConfig

# Activations, the Python process and torch itself.
OVERHEAD_BYTES = 512 * 2**20


class OutOfMemoryError(ValueError):
    """The model or its cache does not fit; the message has the numbers and the flag to change."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    num_blocks: int
    max_model_len: int
    num_host_blocks: int = 0


def plan_memory(
    config: EngineConfig,
    *,
    weight_bytes: int,
    bytes_per_block: int,
    block_size: int,
    model_limit: int,
    available_bytes: int,
) -> MemoryPlan:
    """Blocks of the KV cache (``bytes_per_block`` over all layers) and the longest context.

    Raises:
        OutOfMemoryError: weights and cache exceed the memory, or the context exceeds the cache.
        ValueError: ``max_model_len`` exceeds the model's own limit, or host memory is asked for
            beside the CPU's.
    """
    if config.host_kv_cache_bytes:
        raise ValueError(
            "--host-kv-cache-bytes: the CPU's KV cache lies in host memory already; leave it out "
            "and raise --kv-cache-bytes"
        )
    cache_bytes = config.kv_cache_bytes or CPU_KV_CACHE_BYTES
    needed = weight_bytes + cache_bytes + OVERHEAD_BYTES
    if needed > available_bytes:
        raise OutOfMemoryError(
            f"not enough memory: weights {gib(weight_bytes)} + KV cache "
            f"{gib(cache_bytes)} + overhead {gib(OVERHEAD_BYTES)} = {gib(needed)}, "
            f"but {gib(available_bytes)} is available; lower --kv-cache-bytes or use a smaller "
            "model"
        )
    num_blocks = cache_bytes // bytes_per_block
    capacity = num_blocks * block_size
    wanted = wanted_model_len(config, model_limit)
    if capacity < (config.max_model_len or 1):
        raise OutOfMemoryError(
            f"the KV cache of {gib(cache_bytes)} holds {capacity} tokens "
            f"({num_blocks} blocks of {block_size} tokens, {bytes_per_block} bytes each), fewer "
            f"than --max-model-len {wanted}; raise --kv-cache-bytes to at least "
            f"{-(-wanted // block_size) * bytes_per_block}"
        )
    return MemoryPlan(num_blocks, min(wanted, capacity))


def wanted_model_len(config: EngineConfig, model_limit: int) -> int:
    """What was asked for, else the model's limit. Raises ValueError where it exceeds that."""
    wanted = config.max_model_len or model_limit
    if wanted > model_limit:
        raise ValueError(
            f"--max-model-len {wanted} exceeds the model's own limit of {model_limit} tokens"
        )
    return wanted


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if less."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text) - int(used.read_text()))
    return available


def gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
