"""GPTQ checkpoints (facts from AutoGPTQ's ``QuantLinear`` and GPTQModel's format names).

``qweight`` int32 [K / 8, N] holds eight inputs a word and ``qzeros`` int32 [G, N / 8] eight output
channels, the first in the lowest bits; ``scales`` [G, N]; ``g_idx`` int32 [K] is the group of each
input, not in order after act-order. Format "gptq" stores zero points less one, "gptq_v2" as they
are. Symmetric checkpoints store their zero point, 8, like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.quantized_layout import check_group_index, check_widths, count_groups
from qoq.quantize.weights.grouped_weight import GroupedWeight, contiguous_groups

ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True, slots=True)
class GptqLayout:
    """See ``QuantizedLayout``. ``zero_offset`` is what zero points lack."""

    tensors: CheckedTensors
    group_size: int
    zero_offset: int

    codes_suffix: ClassVar[str] = "qweight"
    suffixes: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales", "g_idx")

    @classmethod
    def open(cls, tensors: CheckedTensors, entry: Mapping[str, Any]) -> Self:
        """``entry``: the config's ``quantization_config``."""
        name = str(entry.get("checkpoint_format") or entry.get("format") or "gptq").lower()
        if name not in ZERO_OFFSETS:
            raise ModelSourceError(
                f"the GPTQ checkpoint has format {name!r}, and only 'gptq' and 'gptq_v2' can be "
                "imported; look for one of these, or quantize the 16-bit model"
            )
        if entry.get("rotation"):
            raise ModelSourceError(
                "the GPTQ checkpoint was rotated, and rotates activations while it runs, which "
                "cannot be imported; quantize the 16-bit model it was made from"
            )
        group_size = check_widths("GPTQ", entry.get("bits"), entry.get("group_size"))
        return cls(tensors, group_size, ZERO_OFFSETS[name])

    def read(self, stem: str, n: int, k: int) -> GroupedWeight:
        num_groups = count_groups(f"{stem}.qweight", k, self.group_size)
        zeros = self.tensors.nibbles(f"{stem}.qzeros", num_groups, n // 8)
        return GroupedWeight(
            self.tensors.nibbles(f"{stem}.qweight", k // 8, n, transposed=True),
            self.tensors.scales(f"{stem}.scales", num_groups, n).t().contiguous(),
            zeros.t().contiguous() + self.zero_offset,
            self._group_index(f"{stem}.g_idx", k, num_groups),
        )

    def _group_index(self, name: str, k: int, num_groups: int) -> Tensor:
        if name not in self.tensors:
            return contiguous_groups(k, num_groups)
        index = self.tensors.load(name, k, dtypes=(torch.int32, torch.int64))
        return check_group_index(name, index, num_groups)
