"""The 16 evenly spaced values that the weights of a group may be rounded to, and the search for
them, in units of the row's float scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from qoq.quantize.weights.cost import Cost

PROTECTIVE_LIMIT = 119
MAX_GROUP_SCALE = 17
# Where the search looks: scales around the closed form, and offsets that shift the lattice by
# parts of a scale. On Gaussian rows this leaves 85 % of the closed form's squared error; trying
# every scale and every offset would leave 83 %.
SCALE_STEPS = (-2, -1, 0, 1)
OFFSET_SHIFTS = (-0.25, 0.0, 0.25, 0.5)
CHUNK_ELEMENTS = 1 << 18  # float32 temporaries of a chunk stay in the cache


class Lattice(NamedTuple):
    """``code * scale + offset`` for codes 0..15; both are integers in fp32 [..., 1]."""

    scale: Tensor
    offset: Tensor

    def encode(self, values: Tensor) -> Tensor:
        """Nearest codes of fp32 [..., group], as fp32.

        Any scale in 1..17 and offset within INT8 keep the coded values within INT8 where the
        values are within +-119: the nearest code overshoots by at most 17 / 2, and 119 + 8.5 < 128;
        a code that is clamped to 0 gives the offset itself.
        """
        return ((values - self.offset) / self.scale).round_().clamp_(0, 15)

    def restore(self, codes: Tensor) -> Tensor:
        return codes * self.scale + self.offset

    @classmethod
    def stack(cls, lattices: Sequence[Lattice]) -> Self:
        """Groups [N, 1] side by side, [N, G, 1]."""
        return cls(*(torch.stack(parts, dim=1) for parts in zip(*lattices, strict=True)))


def closed_form(values: Tensor) -> Lattice:
    """The scale that spans the range of fp32 [..., group], and the offset at its low end."""
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    return Lattice(((high - low) / 15).round_().clamp_(1, MAX_GROUP_SCALE), low.round())


def search_lattice(values: Tensor, cost: Cost) -> Lattice:
    """The lattice of least cost for each group of fp32 [N, ..., group] within +-119.

    The closed form is one of the candidates.
    """
    rows = max(1, CHUNK_ELEMENTS // max(1, values[0].numel()))
    chunks = [_search_chunk(chunk, cost) for chunk in values.split(rows)]
    return Lattice(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def _search_chunk(values: Tensor, cost: Cost) -> Lattice:
    best = closed_form(values)
    least = _cost(values, best, cost)
    for candidate in _candidates(values, best.scale, cost):
        candidate_cost = _cost(values, candidate, cost)
        is_better = candidate_cost < least
        least = torch.where(is_better, candidate_cost, least)
        best = Lattice(
            torch.where(is_better, candidate.scale, best.scale),
            torch.where(is_better, candidate.offset, best.offset),
        )
    return best


def _candidates(values: Tensor, closed_scale: Tensor, cost: Cost) -> Iterator[Lattice]:
    """Scales around the closed form; for each, offsets near the middle, also refined once to the
    center of what their codes leave over.
    """
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    for step in SCALE_STEPS:
        scale = (closed_scale + step).clamp_(1, MAX_GROUP_SCALE)
        for shift in OFFSET_SHIFTS:
            candidate = Lattice(scale, _legal((low + high - 15 * scale) / 2 + shift * scale))
            yield candidate
            residual = values - candidate.encode(values) * scale
            yield Lattice(scale, _legal(cost.center(residual)))


def _legal(offset: Tensor) -> Tensor:
    return offset.round_().clamp_(-128, 127)


def _cost(values: Tensor, lattice: Lattice, cost: Cost) -> Tensor:
    return cost(lattice.restore(lattice.encode(values)).sub_(values))
