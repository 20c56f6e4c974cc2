"""Decode steps as CUDA graphs, one for each number of rows in ``buckets``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Pool = Any  # of graphs' memory: torch has no public name for the type


def decode_buckets(max_rows: int) -> list[int]:
    """Powers of two, then steps of 16 up to 256 rows and of 64 beyond: at most a few rows idle."""
    sizes = {1, 2, 4, 8, *range(16, 257, 16), *range(320, max_rows, 64), max_rows}
    return sorted(size for size in sizes if size <= max_rows)


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    logits: Tensor


class DecodeGraphs:
    """``forward(num_rows)`` runs a decode step of the rows that are set; logits ``[num_rows, V]``.

    All graphs share one ``pool`` of memory: they never run at the same time.
    """

    def __init__(self, forward: Callable[[int], Tensor], max_rows: int) -> None:
        self.buckets = decode_buckets(max_rows)
        self._forward = forward
        self._captured: dict[int, _Captured] = {}

    def capture(self, pool: Pool) -> None:
        """The largest first, whose memory serves the smaller ones."""
        for size in reversed(self.buckets):
            self._forward(size)  # compiles
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = self._forward(size)
            self._captured[size] = _Captured(graph, logits)

    def bucket(self, num_rows: int) -> int:
        """The smallest one that holds so many rows."""
        return self.buckets[bisect_left(self.buckets, num_rows)]

    def replay(self, bucket: int) -> Tensor:
        """Logits, valid until the next replay."""
        captured = self._captured[bucket]
        captured.graph.replay()
        return captured.logits
