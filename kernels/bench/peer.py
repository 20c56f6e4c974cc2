"""A GEMM of another package, measured beside ours: ``--peer MODULE:FUNCTION``.

The function brings bf16 weights into its own format and returns what is timed::

    def peer(weights: list[Tensor], x: Tensor) -> Callable[[int], Tensor]:
        packed = [pack(weight) for weight in weights]  # [N, K] each, on the GPU
        return lambda index: multiply(x, packed[index])  # [M, K] to [M, N]
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

Peer = Callable[[list[Tensor], Tensor], Callable[[int], Tensor]]

# 4-bit groups of random normal weights are off by about 0.1.
MAX_ERROR = 0.2


def load_peer(name: str) -> Peer:
    """Raises ValueError where ``name`` is no MODULE:FUNCTION that can be imported."""
    module, _, function = name.partition(":")
    try:
        peer: Peer = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected MODULE:FUNCTION that can be imported: {error}"
        ) from None
    return peer


def checked_call(peer: Peer, weights: list[Tensor], x: Tensor) -> Callable[[int], Tensor]:
    """Raises AssertionError where the product is not near that of ``x`` ``[M, K]`` in bf16."""
    call = peer(weights, x)
    for index, weight in enumerate(weights):
        exact = torch.mm(x, weight.t()).float()
        error = float((call(index).float() - exact).norm() / exact.norm())
        assert error < MAX_ERROR, f"weight {index} of {len(weights)}: relative error {error:.2f}"
    return call
