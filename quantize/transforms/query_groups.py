"""Grouped-query attention: the query heads that share a key and value head must agree."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.engine.models.config import ModelConfig


def maximum_over_group(values: Tensor, config: ModelConfig) -> Tensor:
    """[num_heads * head_dim] to [num_kv_heads, head_dim]."""
    groups = torch.unflatten(values, 0, (config.num_kv_heads, -1, config.head_dim))
    return groups.amax(dim=1)


def repeat_over_group(values: Tensor, config: ModelConfig) -> Tensor:
    """[num_kv_heads, head_dim] to [num_heads, head_dim]."""
    return values.repeat_interleave(config.num_heads // config.num_kv_heads, dim=0)
