"""A linear layer's weight to the form that a checkpoint stores, by rounding to nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.engine.precision import Precision
from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.weights.channel_weight import ChannelWeight, round_to_channels
from qoq.quantize.weights.int8_weight import Int8Weight, round_to_int8
from qoq.quantize.weights.progressive_weight import ProgressiveWeight, round_to_groups

StoredWeight = ChannelWeight | Int8Weight | ProgressiveWeight


def round_weight(weight: Tensor, precision: Precision, group_size: int) -> StoredWeight:
    """Of float32 [N, K]; ``group_size`` counts for 4 bits only, -1 is one scale a channel."""
    if precision.weight_bits == 8:
        return round_to_int8(weight)
    if group_size == PER_CHANNEL:
        return round_to_channels(weight)
    return round_to_groups(weight, group_size)


def relative_error(stored: StoredWeight, weight: Tensor) -> float:
    """Norm of the change over the norm of ``weight``; 0 for a weight of zeros."""
    norm = torch.linalg.vector_norm(weight)
    change = torch.linalg.vector_norm(stored.dequantize() - weight)
    return (change / norm).item() if norm > 0 else 0.0
