"""Steps with prompts as CUDA graphs, cut at each layer's attention.

How a step's prompts attend is decided on the host, anew in each step; all that lies between two
attentions depends on the number of rows alone. Launched one by one, a step's kernels keep the host
busy for tens of milliseconds, however few tokens it has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from qoq.engine.gpu.graphs import Pool
from qoq.engine.gpu.layers import GpuActivations
from qoq.engine.gpu.step import Attend, AttentionInputs, GpuStep, RunAttention
from qoq.kernels.gpu.quantized_rows import QuantizedRows

# Larger steps take the GPU longer than the host.
MAX_ROWS = 2048


def piecewise_buckets(max_rows: int) -> list[int]:
    """By 64 rows up to 512, by 128 up to 1024, then by 256; and the largest multiple of 64."""
    sizes = {*range(64, 513, 64), *range(640, 1025, 128), *range(1280, MAX_ROWS + 1, 256)}
    sizes.add(max_rows // 64 * 64)
    return sorted(size for size in sizes if 0 < size <= min(max_rows, MAX_ROWS))


class Attended(NamedTuple):
    """What the last layer's heads made, the residual stream, and block tables of the first rows."""

    rows: QuantizedRows
    residual: Tensor
    tables: Tensor


@dataclass(slots=True)
class _Recording:
    """A graph for what comes before each attention, and that attention."""

    pool: Pool
    num_pieces: int
    pieces: list[tuple[torch.cuda.CUDAGraph, Attend, Tensor, QuantizedRows]] = field(
        default_factory=list
    )
    graph: torch.cuda.CUDAGraph = field(default_factory=torch.cuda.CUDAGraph)

    def begin(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.graph.capture_begin(pool=self.pool)

    def cut(self, attend: Attend, q: Tensor, out: QuantizedRows) -> None:
        self.graph.capture_end()
        self.pieces.append((self.graph, attend, _unowned(q), QuantizedRows(*map(_unowned, out))))
        if len(self.pieces) < self.num_pieces:
            self.begin()


class PiecewiseGraphs:
    """``start(num_rows, attend)`` makes a step of the rows that are set, ``forward`` runs it up to
    the last layer's attention.

    All graphs share one ``pool`` of memory, and use it in the order in which they were captured.
    """

    def __init__(
        self,
        start: Callable[[int, RunAttention], tuple[GpuStep, Tensor]],
        forward: Callable[[GpuStep], tuple[GpuActivations, Tensor]],
        *,
        num_layers: int,
        max_rows: int,
    ) -> None:
        self.buckets = piecewise_buckets(max_rows)
        self._num_layers = num_layers
        self._start = start
        self._forward = forward
        self._captured: dict[int, tuple[_Recording, Attended]] = {}

    def capture(self, pool: Pool) -> None:
        """The largest first, whose memory serves the smaller ones."""
        for size in reversed(self.buckets):
            self._run(size, lambda *_: None)  # compiles
            torch.cuda.synchronize()
            with torch.cuda.stream(torch.cuda.Stream()):
                self._captured[size] = self._capture(size, pool)
        torch.cuda.synchronize()

    def bucket(self, num_rows: int) -> int | None:
        """The smallest one that holds so many rows, if any does."""
        index = bisect_left(self.buckets, num_rows)
        return self.buckets[index] if index < len(self.buckets) else None

    def replay(
        self, bucket: int, attention: Callable[[Tensor], AttentionInputs]
    ) -> tuple[QuantizedRows, Tensor]:
        """What the heads of the last layer made and the residual stream, valid until the next
        replay. ``attention`` is made from the block tables of the rows.
        """
        recording, attended = self._captured[bucket]
        inputs = attention(attended.tables)
        for graph, attend, q, out in recording.pieces:
            graph.replay()
            attend(inputs, q, out)
        return attended.rows, attended.residual

    def _run(self, num_rows: int, attend: RunAttention) -> Attended:
        step, tables = self._start(num_rows, attend)
        rows, residual = self._forward(step)
        assert isinstance(rows, QuantizedRows)
        return Attended(rows, residual, tables)

    def _capture(self, num_rows: int, pool: Pool) -> tuple[_Recording, Attended]:
        recording = _Recording(pool, self._num_layers)
        recording.begin()
        rows, residual, tables = self._run(num_rows, recording.cut)
        rows = QuantizedRows(*map(_unowned, rows))
        return recording, Attended(rows, _unowned(residual), _unowned(tables))


def _unowned(tensor: Tensor) -> Tensor:
    """The same memory, which may be given to a tensor of a later piece: it is read before that
    piece runs.
    """
    memory = _Memory(tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return torch.as_tensor(memory, device=tensor.device).view(tensor.dtype).view(tensor.shape)


class _Memory:
    """Bytes on the device, by CUDA's array interface."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }
