"""Rotary position embedding, the half-split form: ``(a, b) -> (a cos - b sin, b cos + a sin)``."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(inv_freq: Tensor, num_positions: int, attention_scale: float = 1.0) -> Tensor:
    """Cosines and sines of every position, fp32 ``[num_positions, 2, D / 2]``.

    ``inv_freq`` is fp32 ``[D / 2]``. ``attention_scale`` multiplies both (YaRN's temperature).
    """
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * inv_freq.float()
    return torch.stack((angles.cos(), angles.sin()), dim=1) * attention_scale


def apply_rope(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate ``[M, H, D]`` by ``cos_sin`` ``[M, 2, D / 2]``, the table's rows of its positions.

    Computed in fp32, returned in the dtype of ``x``.
    """
    cos, sin = cos_sin[:, 0, None], cos_sin[:, 1, None]
    first, second = x.float().chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    half = first.shape[-1]
    torch.mul(first, cos, out=out[..., :half]).sub_(second * sin)
    torch.mul(second, cos, out=out[..., half:]).add_(first * sin)
    return out.to(x.dtype)


def apply_rope_reference(x: Tensor, cos_sin: Tensor) -> Tensor:
    """The definition: complex multiplication, in float64."""
    cos, sin = cos_sin.double().unbind(dim=1)
    first, second = x.double().chunk(2, dim=-1)
    rotated = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
    return torch.cat((rotated.real, rotated.imag), dim=-1).to(x.dtype)
