"""Small tensors from the host to a device: several cross in one copy, which waits for nobody."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from qoq.kernels.gpu.sizes import round_up

ALIGNMENT = 16  # bytes at which a tensor begins, for which kernels are compiled


def send_together(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same tensors on ``device``."""
    sizes = [round_up(part.nbytes, ALIGNMENT) for part in parts]
    starts = list(accumulate(sizes, initial=0))
    host = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, part in zip(starts, parts, strict=False):
        _like(part, host, start).copy_(part)
    sent = host.to(device, non_blocking=True)
    return [_like(part, sent, start) for start, part in zip(starts, parts, strict=False)]


def _like(part: Tensor, memory: Tensor, start: int) -> Tensor:
    return memory[start : start + part.nbytes].view(part.dtype).view(part.shape)
