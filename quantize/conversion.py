"""A linear layer of another quantizer, in the form that we store, and what that changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.sources.quantized_layout import QuantizedWeight
from qoq.quantize.weights.channel_weight import ChannelWeight, round_to_channels
from qoq.quantize.weights.grouped_weight import GroupedWeight
from qoq.quantize.weights.progressive_fit import fit_progressive
from qoq.quantize.weights.progressive_weight import ProgressiveWeight, round_to_groups

StoredWeight = ChannelWeight | ProgressiveWeight


@dataclass(frozen=True, slots=True)
class Conversion:
    """``method``: "exact" (codes and scales as they were), "fit" (codes kept, float scales of
    groups made progressive) or "rounding". ``error`` is the norm of the change over the weight's.
    """

    weight: StoredWeight
    method: str
    error: float


def convert(weight: QuantizedWeight, group_size: int) -> Conversion:
    """Raises ValueError where a zero point has no place in our form."""
    if not isinstance(weight, GroupedWeight):
        return Conversion(weight, "exact", 0.0)
    if group_size == PER_CHANNEL:
        return Conversion(weight.to_channels(), "exact", 0.0)
    if not weight.is_contiguous:
        return round_dense(weight.dequantize(), group_size)
    fitted = fit_progressive(weight)
    return Conversion(fitted, "fit", _relative_error(fitted, weight.dequantize()))


def round_dense(weight: Tensor, group_size: int) -> Conversion:
    """Of float32 [N, K]: a layer that was left in 16 bits, or whose groups are not contiguous."""
    rounded: StoredWeight
    if group_size == PER_CHANNEL:
        rounded = round_to_channels(weight)
    else:
        rounded = round_to_groups(weight, group_size)
    return Conversion(rounded, "rounding", _relative_error(rounded, weight))


def _relative_error(stored: StoredWeight, weight: Tensor) -> float:
    norm = torch.linalg.vector_norm(weight)
    change = torch.linalg.vector_norm(stored.dequantize() - weight)
    return (change / norm).item() if norm > 0 else 0.0
