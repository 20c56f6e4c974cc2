"""Rotary position embedding, the half-split form: ``(a, b) -> (a cos - b sin, b cos + a sin)``."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(inv_freq: Tensor, num_positions: int, attention_scale: float = 1.0) -> Tensor:
    """Of every position cosines, minus sines, sines: fp32 ``[num_positions, 3, D / 2]``.

    ``inv_freq`` is fp32 ``[D / 2]``. ``attention_scale`` multiplies all (YaRN's temperature).
    """
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * inv_freq.float()
    cos, sin = angles.cos() * attention_scale, angles.sin() * attention_scale
    return torch.stack((cos, -sin, sin), dim=1)


def apply_rope(x: Tensor, table_rows: Tensor) -> Tensor:
    """Rotate ``[M, H, D]`` by ``table_rows`` ``[M, 3, D / 2]``, those of the tokens' positions.

    Computed in fp32, returned in the dtype of ``x``.
    """
    halves = torch.unflatten(x.float(), 2, (2, -1))
    cos, sin = table_rows[:, None, :1], table_rows[:, None, 1:]
    return (halves * cos).add_(halves.flip(2).mul_(sin)).flatten(2).to(x.dtype)


def apply_rope_reference(x: Tensor, table_rows: Tensor) -> Tensor:
    """The definition: complex multiplication, in float64."""
    cos, _, sin = table_rows.double().unbind(dim=1)
    first, second = x.double().chunk(2, dim=-1)
    rotated = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
    return torch.cat((rotated.real, rotated.imag), dim=-1).to(x.dtype)
