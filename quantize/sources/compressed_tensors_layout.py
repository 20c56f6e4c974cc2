"""compressed-tensors checkpoints in the "pack-quantized" format (facts from that project's
``PackedQuantizationCompressor`` and ``QuantizationConfig``).

Codes -8..7 are stored plus 8, eight a word from the lowest bits: ``weight_packed`` int32
[N, ceil(K / 8)] along K; ``weight_zero_point`` int32 [ceil(N / 8), G] along N, absent where
quantization is symmetric; ``weight_scale`` [N, G]; ``weight_g_idx`` [K] is the group of each input,
or -1 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.quantized_layout import check_group_index, check_widths, count_groups
from qoq.quantize.weights.grouped_weight import GroupedWeight, contiguous_groups

INTEGERS = (torch.int32, torch.int64)
OFFSET = 8  # what codes and zero points are stored plus


@dataclass(frozen=True, slots=True)
class CompressedTensorsLayout:
    """See ``QuantizedLayout``."""

    tensors: CheckedTensors
    group_size: int
    is_symmetric: bool

    codes_suffix: ClassVar[str] = "weight_packed"
    suffixes: ClassVar[tuple[str, ...]] = (
        *("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
        *("k_scale", "v_scale"),  # of the quantized cache of another engine
    )

    @classmethod
    def open(cls, tensors: CheckedTensors, entry: Mapping[str, Any]) -> Self:
        """``entry``: the config's ``quantization_config``."""
        if entry.get("format") != "pack-quantized":
            raise _refusal(f"format {entry.get('format')!r}", "'pack-quantized'")
        if entry.get("transform_config"):
            raise _refusal("transforms of activations", "checkpoints without them")
        weights = _only_scheme(entry)
        if weights.get("type", "int") != "int":
            raise _refusal(f"weights of type {weights['type']!r}", "'int'")
        sizes = {"group": weights.get("group_size"), "channel": PER_CHANNEL}
        strategy = weights.get("strategy")
        if strategy not in sizes:
            raise _refusal(f"strategy {strategy!r}", "'group' and 'channel'")
        size = check_widths("compressed-tensors", weights.get("num_bits"), sizes[strategy])
        return cls(tensors, size, bool(weights.get("symmetric", True)))

    def read(self, stem: str, n: int, k: int) -> GroupedWeight:
        num_groups = count_groups(f"{stem}.weight_packed", k, self.group_size)
        packed = self.tensors.nibbles(f"{stem}.weight_packed", n, -(-k // 8))
        return GroupedWeight(
            packed[:, :k].contiguous(),
            self.tensors.scales(f"{stem}.weight_scale", n, num_groups),
            self._zeros(f"{stem}.weight_zero_point", n, num_groups),
            self._group_index(f"{stem}.weight_g_idx", k, num_groups),
        )

    def _zeros(self, name: str, n: int, num_groups: int) -> Tensor:
        if self.is_symmetric:
            return torch.full((n, num_groups), OFFSET, dtype=torch.uint8)
        packed = self.tensors.nibbles(name, -(-n // 8), num_groups, transposed=True)
        return packed[:, :n].t().contiguous()

    def _group_index(self, name: str, k: int, num_groups: int) -> Tensor:
        if name not in self.tensors:
            return contiguous_groups(k, num_groups)
        index = self.tensors.load(name, k, dtypes=INTEGERS)
        if (index == -1).all():
            return contiguous_groups(k, num_groups)
        return check_group_index(name, index, num_groups)


def _only_scheme(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """How weights are quantized, which has to be the same in all groups of layers."""
    groups = list(entry.get("config_groups", {}).values())
    if any(not isinstance(group, Mapping) or not group.get("weights") for group in groups):
        raise _refusal("a group of layers without a scheme for weights", "schemes written out")
    schemes: list[Mapping[str, Any]] = [group["weights"] for group in groups]
    if not schemes or any(scheme != schemes[0] for scheme in schemes):
        raise _refusal(f"{len(schemes)} schemes for weights", "a single one")
    return schemes[0]


def _refusal(found: str, supported: str) -> ModelSourceError:
    return ModelSourceError(
        f"the compressed-tensors checkpoint has {found}, and only {supported} can be imported; "
        "quantize the 16-bit model it was made from"
    )
