"""What the scheduler reports about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """Gauges, and counters since the start. Prefix queries and hits are in tokens.

    ``kv_cache_usage`` is the share of blocks that requests hold, 0.0 when idle. A preempted
    request counts as waiting, and its resumption is not a prefix query. Swapped blocks are those
    copied between the device and host memory.
    """

    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage: float = 0.0
    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_blocks_swapped_out: int = 0
    num_blocks_swapped_in: int = 0
