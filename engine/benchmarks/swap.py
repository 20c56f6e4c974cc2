"""What a swap costs: ``python -P -m qoq.engine.benchmarks.swap`` on a GPU.

It is checked first that blocks come back as they left. Of each swap, in ms: ``host`` is how long
the engine's thread is at it, ``steps`` how long the steps behind it wait, ``bus`` how long the
blocks take to arrive.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from qoq.engine.gpu.host_memory import HOST_KV_CACHE_BYTES, allocate_pinned
from qoq.engine.gpu.swap import BlockSwapper
from qoq.kernels.kv_cache import KvCache, KvFormat
from qoq.scheduler.batch import Batch, BlockCopies

SHAPES = {"Llama-3-8B": (32, 8), "Llama-2-7B": (32, 32), "Llama-2-70B": (80, 8)}  # layers, heads
COUNTS = (1, 8, 17, 100)
NUM_RUNS = 7


class SwapTimes(NamedTuple):
    host_ms: float
    steps_ms: float
    bus_ms: float


def main() -> None:
    device = torch.device("cuda")
    started_s = time.perf_counter()
    pinned = allocate_pinned((HOST_KV_CACHE_BYTES,), torch.uint8, device)
    print(f"{pinned.nbytes / 2**30:.0f} GiB pinned in {time.perf_counter() - started_s:.2f} s")
    del pinned
    print(f"{'':12} blocks     MB  way   host  steps    bus   GB/s")
    for name, (num_layers, num_heads) in SHAPES.items():
        fmt = KvFormat(num_heads, head_dim=128)
        caches = [fmt.allocate_on(device, 2 * max(COUNTS)) for _ in range(num_layers)]
        swapper = BlockSwapper(caches, max(COUNTS))
        check_round_trip(swapper, caches)
        for count in COUNTS:
            megabytes = count * num_layers * fmt.block_bytes / 1e6
            for way, batch in (("out", out_of(count)), ("in", into(count))):
                times = time_swap(swapper, batch)
                print(
                    f"{name:12} {count:6} {megabytes:6.1f}  {way:3} {times.host_ms:6.2f} "
                    f"{times.steps_ms:6.2f} {times.bus_ms:6.2f} {megabytes / times.bus_ms:6.1f}"
                )


def out_of(count: int) -> Batch:
    return Batch([], [], swap_out=BlockCopies([*range(count)], [*range(count)]))


def into(count: int) -> Batch:
    """Not where they came from."""
    return Batch([], [], swap_in=BlockCopies([*range(count)], [*range(count, 2 * count)]))


def check_round_trip(swapper: BlockSwapper, caches: list[KvCache]) -> None:
    """Raises AssertionError where a byte differs."""
    count = max(COUNTS)
    for cache in caches:
        cache.blocks.random_(0, 256)
    expected = [cache.blocks[:count].clone() for cache in caches]
    swapper.run(out_of(count))
    for cache in caches:
        cache.blocks.zero_()
    swapper.run(into(count))
    for cache, blocks in zip(caches, expected, strict=True):
        assert torch.equal(cache.blocks[count:], blocks), "a block came back as another"


def time_swap(swapper: BlockSwapper, batch: Batch) -> SwapTimes:
    runs = [_time_once(lambda: swapper.run(batch)) for _ in range(NUM_RUNS)]
    return SwapTimes(*(statistics.median(times) for times in zip(*runs, strict=True)))


def _time_once(call: Callable[[], object]) -> SwapTimes:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    started_s = time.perf_counter()
    start.record()
    call()
    end.record()
    returned_s = time.perf_counter()
    torch.cuda.synchronize()
    arrived_s = time.perf_counter()
    return SwapTimes(
        1e3 * (returned_s - started_s), start.elapsed_time(end), 1e3 * (arrived_s - started_s)
    )


if __name__ == "__main__":
    main()
