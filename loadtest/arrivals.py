"""When requests are sent. An open loop keeps its times however slow the server is; a closed loop
waits for an answer before it asks again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from qoq.loadtest.workload import TraceRow


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One offset in seconds for each request, and how many may be under way at a time."""

    offsets_s: list[float]
    max_in_flight: int | None = None
    name: str = ""


def all_at_once(num_requests: int) -> Arrivals:
    return Arrivals([0.0] * num_requests, name="all at once")


def closed_loop(num_requests: int, num_clients: int) -> Arrivals:
    """Each of ``num_clients`` sends its next request as soon as its last one has ended."""
    return Arrivals([0.0] * num_requests, num_clients, f"closed loop, {num_clients} clients")


def poisson(num_requests: int, rate: float, seed: int) -> Arrivals:
    """Independent arrivals, ``rate`` a second on average; the first comes at 0."""
    draw = random.Random(seed)
    gaps = (draw.expovariate(rate) for _ in range(num_requests - 1))
    return Arrivals(list(accumulate(gaps, initial=0.0)), name=f"Poisson, {rate:g} requests/s")


def steady(num_requests: int, interval_s: float) -> Arrivals:
    """One after each ``interval_s``."""
    offsets_s = [interval_s * (index + 1) for index in range(num_requests)]
    return Arrivals(offsets_s, name=f"one every {interval_s:g} s")


def from_trace(rows: Sequence[TraceRow]) -> Arrivals:
    """As recorded; a trace that holds no times is sent all at once."""
    if any(row.arrival_s is None for row in rows):
        return all_at_once(len(rows))
    return Arrivals([row.arrival_s or 0.0 for row in rows], name="as recorded in the trace")
