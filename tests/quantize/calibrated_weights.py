"""Weights and what their layer reads: inputs with few directions, as those of language models."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.quantize.hessian import Hessian


def correlated_inputs(k: int, num_tokens: int = 400, seed: int = 0) -> Tensor:
    """fp32 [num_tokens, k]: a quarter as many directions as channels, and noise a tenth of it."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(k // 4, k, generator=generator)
    mix = torch.randn(num_tokens, k // 4, generator=generator)
    return mix @ directions + 0.1 * torch.randn(num_tokens, k, generator=generator)


def correlated_hessian(k: int, seed: int = 0) -> Hessian:
    x = correlated_inputs(k, seed=seed)
    return Hessian(x.T @ x)


def gaussian_weight(n: int, k: int, seed: int = 1) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
