"""What a GPU did while something ran: one interval for each kernel and copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Interval:
    name: str
    start_us: float
    end_us: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """Of one step: ``num_launches`` that take ``us`` together, ``share`` of all kernels' time."""

    name: str
    num_launches: float
    us: float
    share: float


def trace(run: Callable[[], object]) -> list[Interval]:
    """Of the current CUDA device, from idle to idle."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    results: Any = profile.profiler
    return [
        Interval(event.name(), event.start_ns() / 1e3, event.end_ns() / 1e3)
        for event in results.kineto_results.events()
        if event.device_type().name == "CUDA"
    ]


def busy_us(intervals: Sequence[Interval]) -> float:
    """In which at least one runs."""
    busy = end_us = 0.0
    for interval in sorted(intervals, key=lambda interval: interval.start_us):
        busy += max(0.0, interval.end_us - max(interval.start_us, end_us))
        end_us = max(end_us, interval.end_us)
    return busy


def span_us(intervals: Sequence[Interval]) -> float:
    """From the first start to the last end."""
    return max(i.end_us for i in intervals) - min(i.start_us for i in intervals)


def kernels(intervals: Sequence[Interval], num_steps: int) -> tuple[Kernel, ...]:
    """By name, the longest first."""
    durations: dict[str, list[float]] = defaultdict(list)
    for interval in intervals:
        durations[interval.name].append(interval.end_us - interval.start_us)
    total = sum(map(sum, durations.values()))
    found = [
        Kernel(name, len(times) / num_steps, sum(times) / num_steps, sum(times) / total)
        for name, times in durations.items()
    ]
    return tuple(sorted(found, key=lambda kernel: -kernel.us))
