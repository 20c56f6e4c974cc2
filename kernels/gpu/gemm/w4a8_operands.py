"""What the W4A8 kernels of all GPUs share: the workspace of split tiles, and checks of operands."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight
from qoq.kernels.quantize import QuantizedActivations

MAX_SPLIT_TILES = 4096


class Workspace:
    """Partial sums and arrival counters of split tiles, shared by the GEMMs of one stream."""

    def __init__(self, device: torch.device, num_bytes: int = 32 << 20) -> None:
        self.partials = torch.empty(num_bytes // 4, dtype=torch.int32, device=device)
        self.counters = torch.zeros(2 * MAX_SPLIT_TILES, dtype=torch.int32, device=device)

    def fits(self, tiles: int, partials: int) -> bool:
        """Room for ``tiles`` split tiles and ``partials`` int32 partial sums."""
        return tiles <= MAX_SPLIT_TILES and partials <= self.partials.numel()


def check_operands(x: QuantizedActivations, weight: W4A8Weight, bias: Tensor | None) -> None:
    """Raises ValueError that names the tensor and what was expected."""
    if not weight.boxes.is_contiguous():
        raise ValueError("boxes: expected contiguous, as pack_per_group makes it")
    check_inputs(x, bias, weight.n, weight.k, weight.boxes.device)


def check_inputs(
    x: QuantizedActivations, bias: Tensor | None, n: int, k: int, device: torch.device
) -> None:
    """What a weight ``[n, k]`` on ``device`` can multiply. Raises ValueError likewise."""
    if x.codes.dtype != torch.int8 or x.codes.dim() != 2 or x.codes.shape[1] != k:
        raise ValueError(
            f"codes: expected int8 [M, {k}], got {x.codes.dtype} {list(x.codes.shape)}"
        )
    if x.codes.stride(1) != 1:
        raise ValueError(f"codes: expected contiguous rows, got strides {x.codes.stride()}")
    if x.scales.dtype != torch.float32 or x.scales.numel() != x.codes.shape[0]:
        raise ValueError(
            f"scales: expected float32 [{x.codes.shape[0]}, 1], "
            f"got {x.scales.dtype} {list(x.scales.shape)}"
        )
    if not x.scales.is_contiguous():
        raise ValueError(f"scales: expected contiguous, got strides {x.scales.stride()}")
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"bias: expected [{n}], got {list(bias.shape)}")
    for name, tensor in (("codes", x.codes), ("scales", x.scales), ("bias", bias)):
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name}: expected on {device}, got {tensor.device}")
