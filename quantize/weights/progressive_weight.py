"""4-bit weights in two levels: ``W ~ scales * W8'`` and ``W8' = codes * s + b`` in each group.

Level 0 rounds each output channel to integers within +-119; level 1 codes those integers with an
integer scale ``s`` in 1..17 and an integer offset ``b``. 119 leaves room for half of the largest
``s``, so that W8' is a legal INT8 value whatever the rounding (DESIGN section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.kernels.packing import pack_codes
from qoq.quantize.weights.int8_weight import round_to_int8

PROTECTIVE_LIMIT = 119
MAX_GROUP_SCALE = 17
# Where the search looks: scales around the closed form, and offsets that shift the code lattice by
# parts of a scale. On Gaussian rows this leaves 85 % of the closed form's squared error; trying
# every scale and every offset would leave 83 %.
SCALE_STEPS = (-2, -1, 0, 1)
OFFSET_SHIFTS = (-0.25, 0.0, 0.25, 0.5)
CHUNK_ELEMENTS = 1 << 18  # float32 temporaries of a chunk stay in the cache


@dataclass(frozen=True, slots=True)
class ProgressiveWeight:
    """``codes`` uint8 [N, K] in 0..15, ``scales`` float32 [N] (level 0),
    ``group_scales`` uint8 [N, K / group] in 1..17, ``group_offsets`` int8 [N, K / group].
    """

    codes: Tensor
    scales: Tensor
    group_scales: Tensor
    group_offsets: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores, by suffix."""
        integers = self.integers()
        assert integers.min() >= -128 and integers.max() <= 127, "W8' does not fit INT8"
        return {
            "qweight": pack_codes(self.codes),
            "scales": self.scales,
            "group_scales": self.group_scales,
            "group_offsets": self.group_offsets,
        }

    def integers(self) -> Tensor:
        """W8', int16 [N, K]; int16 so that an illegal value shows instead of wrapping."""
        num_rows, num_groups = self.group_scales.shape
        codes = self.codes.view(num_rows, num_groups, -1).to(torch.int16)
        return (codes * self.group_scales[..., None] + self.group_offsets[..., None]).flatten(1)

    def dequantize(self) -> Tensor:
        """float32 [N, K]."""
        return self.integers().float() * self.scales[:, None]


def round_to_groups(weight: Tensor, group_size: int) -> ProgressiveWeight:
    """Round float32 ``weight`` [N, K]; ``group_size`` must divide K."""
    level0 = round_to_int8(weight, PROTECTIVE_LIMIT)
    codes, scales, offsets = search_groups(level0.codes.view(len(weight), -1, group_size))
    return ProgressiveWeight(codes.flatten(1), level0.scales, scales, offsets)


def closed_form(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The scale that spans the range and the offset at its low end, float32 [..., 1] each.

    ``groups``: the integers of level 0 as float32 [..., group].
    """
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    return ((high - low) / 15).round_().clamp_(1, MAX_GROUP_SCALE), low


def encode(groups: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Nearest codes as float32, same shape as ``groups``.

    Any legal scale and offset keep W8' within INT8: the nearest code overshoots an integer by at
    most 17 / 2, and 119 + 8.5 < 128; a code that is clamped to 0 gives the offset itself.
    """
    return ((groups - offset) / scale).round_().clamp_(0, 15)


def search_groups(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose scale and offset of each group of int8 [N, G, group] by squared error.

    Returns codes uint8 [N, G, group], scales uint8 [N, G] and offsets int8 [N, G]. The closed
    form is one of the candidates, so the result is never worse than it.
    """
    rows = max(1, CHUNK_ELEMENTS // groups[0].numel())
    starts = range(0, len(groups), rows)
    chunks = [_search_chunk(groups[start : start + rows].float()) for start in starts]
    codes, scales, offsets = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return (
        codes.to(torch.uint8),
        scales.squeeze(-1).to(torch.uint8),
        offsets.squeeze(-1).to(torch.int8),
    )


def _search_chunk(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale, offset = closed_form(groups)
    error = _error(groups, scale, offset)
    for candidate_scale, candidate_offset in _candidates(groups, scale):
        candidate_error = _error(groups, candidate_scale, candidate_offset)
        is_better = candidate_error < error
        error = torch.where(is_better, candidate_error, error)
        scale = torch.where(is_better, candidate_scale, scale)
        offset = torch.where(is_better, candidate_offset, offset)
    return encode(groups, scale, offset), scale, offset


def _candidates(groups: Tensor, closed_scale: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales around the closed form; for each, offsets near the middle, also refined once to the
    mean of what their codes leave over.
    """
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    for step in SCALE_STEPS:
        scale = (closed_scale + step).clamp_(1, MAX_GROUP_SCALE)
        for shift in OFFSET_SHIFTS:
            offset = _round_offset((low + high - 15 * scale) / 2 + shift * scale)
            yield scale, offset
            residual = groups - encode(groups, scale, offset) * scale
            yield scale, _round_offset(residual.mean(dim=-1, keepdim=True))


def _round_offset(offset: Tensor) -> Tensor:
    return offset.round_().clamp_(-128, 127)


def _error(groups: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Squared error of each group, float32 [..., 1]."""
    restored = encode(groups, scale, offset) * scale + offset
    return (restored - groups).square_().sum(dim=-1, keepdim=True)
