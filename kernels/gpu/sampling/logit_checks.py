"""What kernels on logits ask of their operands, in messages that name the tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def check_logits(logits: Tensor, max_vocab: int | None = None) -> None:
    """Raises ValueError unless ``[R, V]`` with contiguous rows, of ``max_vocab`` tokens or less."""
    if logits.dim() != 2 or logits.stride(1) != 1 or not logits.shape[1]:
        raise ValueError(
            f"logits: expected [R, V], rows contiguous, got {list(logits.shape)} "
            f"with strides {logits.stride()}"
        )
    if max_vocab is not None and logits.shape[1] > max_vocab:
        raise ValueError(f"logits: expected V up to {max_vocab}, got {logits.shape[1]}")


def check_vector(name: str, tensor: Tensor, size: int | None, dtype: torch.dtype) -> None:
    """Raises ValueError unless contiguous ``[size]``, None for any, of ``dtype``."""
    size = tensor.numel() if size is None else size
    if tensor.shape != (size,) or tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(
            f"{name}: expected contiguous {dtype} [{size}], got {tensor.dtype} {list(tensor.shape)}"
        )
