"""GPTQ: weights are rounded column by column, and the columns to come make up for each error.

After Frantar et al., arXiv 2210.17323. The result lands in our formats: what a group's columns may
be rounded to is decided when the group begins, from the weights as they are by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qoq.quantize.clipping import clip_channels
from qoq.quantize.hessian import Hessian
from qoq.quantize.weights.channel_weight import ChannelRange, ChannelWeight
from qoq.quantize.weights.cost import Cost, SquaredError, WeightedError
from qoq.quantize.weights.int8_weight import int8_scales
from qoq.quantize.weights.lattice import PROTECTIVE_LIMIT, Lattice, search_lattice
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

BLOCK = 128  # columns whose errors reach the columns past the block in one product


@dataclass(frozen=True, slots=True)
class GptqRounding:
    """``factor`` fp32 [K, K], upper triangular: the damped Hessian's inverse is ``U.T @ U``.

    An error ``e`` in column j that later columns make up for costs ``(e / U[j, j]) ** 2``. With
    ``clip``, scales are chosen by that cost; without, by the weights' own squared error.
    """

    factor: Tensor
    clip: bool

    @classmethod
    def of(cls, hessian: Hessian, clip: bool) -> Self:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian.damped()))
        return cls(torch.linalg.cholesky(inverse, upper=True).float(), clip)

    def to_groups(self, weight: Tensor, group_size: int) -> ProgressiveWeight:
        """Of fp32 [N, K]. Weights pushed past the protective range are rounded from its end."""
        scales = int8_scales(weight, PROTECTIVE_LIMIT)

        def choose(group: Tensor, first: int) -> Lattice:
            cost = self._cost(slice(first, first + group_size))
            return search_lattice(group.clamp(-PROTECTIVE_LIMIT, PROTECTIVE_LIMIT), cost)

        codes, lattices = self._round(weight / scales[:, None], group_size, choose)
        return ProgressiveWeight.of(codes, scales, Lattice.stack(lattices))

    def to_channels(self, weight: Tensor) -> ChannelWeight:
        """Of fp32 [N, K]."""
        span = ChannelRange.of(weight)
        if self.clip:
            span = clip_channels(weight, self._cost(slice(None)))
        lattice = Lattice(torch.ones(len(weight), 1), -span.zeros[:, None])
        values = weight / span.scales[:, None]
        codes, _ = self._round(values, weight.shape[1], lambda group, first: lattice)
        return ChannelWeight(codes, span.scales, span.zeros.to(torch.uint8))

    def _cost(self, columns: slice) -> Cost:
        return WeightedError(self.factor.diagonal()[columns] ** -2) if self.clip else SquaredError()

    def _round(
        self, values: Tensor, group_size: int, choose: Callable[[Tensor, int], Lattice]
    ) -> tuple[Tensor, list[Lattice]]:
        """Codes uint8 [N, K] of ``values`` fp32 [N, K], and the lattice of each group, which
        ``choose`` finds for the group's values [N, group] and its first column.
        """
        columns, codes = values.T.contiguous(), torch.empty(values.T.shape, dtype=torch.uint8)
        lattices: list[Lattice] = []
        for start in range(0, len(columns), BLOCK):
            end = min(start + BLOCK, len(columns))
            errors = torch.empty_like(columns[start:end])
            for i in range(start, end):
                if i % group_size == 0:
                    group = columns[i : i + group_size].T.contiguous()
                    lattices.append(choose(group, i))
                codes[i], error = _round_column(columns[i], lattices[-1])
                errors[i - start] = error / self.factor[i, i]
                row = self.factor[i, i + 1 : end]
                columns[i + 1 : end].addr_(row, errors[i - start], alpha=-1)
            columns[end:].addmm_(self.factor[start:end, end:].T, errors, alpha=-1)
        return codes.T.contiguous(), lattices


def _round_column(column: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Codes and errors [N]."""
    values = column[:, None].clamp(-PROTECTIVE_LIMIT, PROTECTIVE_LIMIT)
    codes = lattice.encode(values)
    return codes.squeeze(1), column - lattice.restore(codes).squeeze(1)
