"""What a quantizer's file format has to answer, and what all of them check alike."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import PER_CHANNEL, QuantizationConfig
from qoq.quantize.weights.channel_weight import ChannelWeight
from qoq.quantize.weights.grouped_weight import GroupedWeight, contiguous_groups
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

QuantizedWeight = ChannelWeight | ProgressiveWeight | GroupedWeight


class QuantizedLayout(Protocol):
    """Reads linear layers by their name without a suffix, ``model.layers.0.mlp.up_proj``."""

    @property
    def codes_suffix(self) -> str:
        """Of the tensor that marks a quantized linear layer."""
        ...

    @property
    def suffixes(self) -> Collection[str]:
        """Of all tensors that only its own quantizer understands."""
        ...

    @property
    def group_size(self) -> int:
        """128, 64, 32, or -1 for one scale a channel."""
        ...

    def read(self, stem: str, n: int, k: int) -> QuantizedWeight:
        """A layer that the model's config says is [N, K].

        Raises ModelSourceError, naming the tensor, for what is missing, misshapen or illegal.
        """
        ...


def check_widths(method: str, bits: object, group_size: object) -> int:
    """The group size. Raises ModelSourceError for anything but 4 bits and a size of ours."""
    if bits != 4:
        raise ModelSourceError(
            f"the {method} checkpoint has {bits}-bit weights, and only 4-bit ones can be imported; "
            "quantize the 16-bit model it was made from"
        )
    if not isinstance(group_size, int):
        raise ModelSourceError(f"the {method} checkpoint's group_size is {group_size!r}, no number")
    return QuantizationConfig(group_size=group_size).group_size


def count_groups(name: str, k: int, group_size: int) -> int:
    """Groups of a row of K weights; raises ModelSourceError where the last one is cut short."""
    if group_size == PER_CHANNEL:
        return 1
    if k % group_size:
        raise ModelSourceError(
            f"tensor {name}: its group size {group_size} does not divide K = {k}; "
            "quantize the 16-bit model instead"
        )
    return k // group_size


def check_group_index(name: str, index: Tensor, num_groups: int) -> Tensor:
    """``index`` as int64 [K]. Raises ModelSourceError unless all groups have the same size."""
    groups = contiguous_groups(len(index), num_groups)
    if not torch.equal(index.long().sort().values, groups):
        raise ModelSourceError(
            f"tensor {name} does not put {len(index) // num_groups} inputs into each of "
            f"{num_groups} groups; download the model again"
        )
    return index.long()
