"""AWQ checkpoints in the "gemm" layout (facts from AutoAWQ's ``WQLinear_GEMM``).

``qweight`` int32 [K, N / 8] and ``qzeros`` int32 [G, N / 8] hold eight output channels a word, in
the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits; ``scales`` float16 [G, N]. Zero points are
stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.quantized_layout import check_widths, count_groups
from qoq.quantize.weights.grouped_weight import GroupedWeight, contiguous_groups


@dataclass(frozen=True, slots=True)
class AwqLayout:
    """See ``QuantizedLayout``."""

    tensors: CheckedTensors
    group_size: int

    codes_suffix: ClassVar[str] = "qweight"
    suffixes: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales")

    @classmethod
    def open(cls, tensors: CheckedTensors, entry: Mapping[str, Any]) -> Self:
        """``entry``: the config's ``quantization_config``, in AutoAWQ's or transformers' words."""
        version = str(entry.get("version") or entry.get("format") or "gemm").lower()
        if version != "gemm":
            raise ModelSourceError(
                f"the AWQ checkpoint has layout {version!r}, and only 'gemm' can be imported; "
                "look for a gemm version of it, or quantize the 16-bit model"
            )
        bits = entry.get("bits", entry.get("w_bit"))
        group_size = entry.get("group_size", entry.get("q_group_size"))
        return cls(tensors, check_widths("AWQ", bits, group_size))

    def read(self, stem: str, n: int, k: int) -> GroupedWeight:
        num_groups = count_groups(f"{stem}.qweight", k, self.group_size)
        codes = self.tensors.nibbles(f"{stem}.qweight", k, n // 8)
        zeros = self.tensors.nibbles(f"{stem}.qzeros", num_groups, n // 8)
        return GroupedWeight(
            _in_order(codes).t().contiguous(),
            self.tensors.scales(f"{stem}.scales", num_groups, n).t().contiguous(),
            _in_order(zeros).t().contiguous(),
            contiguous_groups(k, num_groups),
        )


def _in_order(interleaved: Tensor) -> Tensor:
    """Even channels come first in a word and odd ones second; uint8 [., N]."""
    rows, n = interleaved.shape
    return interleaved.view(rows, n // 8, 2, 4).transpose(2, 3).reshape(rows, n)
