"""Steps with prompts as CUDA graphs, cut at each layer's attention.

How a step's prompts attend is decided on the host, anew in each step; all that lies between two
attentions depends on the number of rows alone. Launched one by one, a step's kernels keep the host
busy for tens of milliseconds, however few tokens it has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
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


class _Piece(NamedTuple):
    """A graph of what comes before an attention, and that attention."""

    graph: torch.cuda.CUDAGraph
    attend: Attend
    q: Tensor
    out: QuantizedRows


class _Recording:
    """Captures from the start on; a graph ends at each attention, the last one for good."""

    def __init__(self, pool: Pool, num_pieces: int) -> None:
        self.pieces: list[_Piece] = []
        self._pool = pool
        self._num_pieces = num_pieces
        self._graph = self._begin()

    def cut(self, attend: Attend, q: Tensor, out: QuantizedRows) -> None:
        self._graph.capture_end()
        out = QuantizedRows(*map(_unowned, out))
        self.pieces.append(_Piece(self._graph, attend, _unowned(q), out))
        if len(self.pieces) < self._num_pieces:
            self._graph = self._begin()

    def _begin(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool)
        return graph


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
        self._captured: dict[int, tuple[list[_Piece], Attended]] = {}

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
        pieces, attended = self._captured[bucket]
        inputs = attention(attended.tables)
        for piece in pieces:
            piece.graph.replay()
            piece.attend(inputs, piece.q, piece.out)
        return attended.rows, attended.residual

    def _run(self, num_rows: int, attend: RunAttention) -> Attended:
        step, tables = self._start(num_rows, attend)
        rows, residual = self._forward(step)
        assert isinstance(rows, QuantizedRows)
        return Attended(rows, residual, tables)

    def _capture(self, num_rows: int, pool: Pool) -> tuple[list[_Piece], Attended]:
        recording = _Recording(pool, self._num_layers)
        rows, residual, tables = self._run(num_rows, recording.cut)
        rows = QuantizedRows(*map(_unowned, rows))
        return recording.pieces, Attended(rows, _unowned(residual), _unowned(tables))


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
