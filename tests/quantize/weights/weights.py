"""Hypothesis strategy: weight matrices with the rows that break quantizers."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

KINDS = ("normal", "zero", "constant", "outlier", "tiny", "huge", "one-sided", "sparse")


@st.composite
def weights(draw: st.DrawFn, k: int = 64) -> Tensor:
    """float32 [1..4, k]; each row of its own kind and magnitude."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.stack([_row(kind, k, generator) for kind in kinds])


def _row(kind: str, k: int, generator: torch.Generator) -> Tensor:
    row = torch.randn(k, generator=generator)
    if kind == "outlier":
        row[::7] *= 1e4
    elif kind == "sparse":
        row[torch.rand(k, generator=generator) < 0.9] = 0
    return {
        "zero": torch.zeros(k),
        "constant": row[0].expand(k),
        "tiny": row * 1e-42,  # denormal
        "huge": row * 5e37,
        "one-sided": row.abs() + 1,
    }.get(kind, row)
