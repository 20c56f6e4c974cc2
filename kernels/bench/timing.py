"""How long a kernel takes: the replay of a CUDA graph of many calls, the median of several; and
what the card reaches at best.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

NUM_CALLS = 20
NUM_REPLAYS = 7


def time_us(call: Callable[[int], object], num_calls: int = NUM_CALLS) -> float:
    """Microseconds of one ``call(index)``; the index lets it take other operands each time, so
    that they do not stay in the L2.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for index in range(num_calls):
                call(index)
        graph.replay()
        torch.cuda.synchronize()
        return statistics.median(_replay_us(graph) for _ in range(NUM_REPLAYS)) / num_calls


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def copy_bandwidth() -> float:
    """TB/s of an elementwise kernel, bytes read plus bytes written."""
    source = torch.empty(1 << 27, dtype=torch.int64, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / time_us(lambda _: torch.bitwise_not(source, out=target), 4) / 1e6


def product_tops() -> float:
    """Tera-operations/s of the faster of ``torch._int_mm`` and cuBLAS FP8, 8192 cubed."""
    size, one = 8192, torch.ones((), device="cuda")
    a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device="cuda") for _ in "ab")
    times = [time_us(lambda _: torch._int_mm(a, b.t()), 4)]
    if torch.cuda.get_device_capability() >= (8, 9):
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        times.append(
            time_us(
                lambda _: torch._scaled_mm(
                    x, y.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
                ),
                4,
            )
        )
    return 2 * size**3 / min(times) / 1e6
