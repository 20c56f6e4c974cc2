"""Activation-aware reordering: input channels of like salience come to share a weight group.

The permutation is folded into the producers' rows, so nothing is gathered at run time (QoQ,
arXiv 2405.04532, section 4.3.3).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.channels import permute_inputs, permute_outputs
from qoq.quantize.transforms.query_groups import maximum_over_group, repeat_over_group


def reorder_channels(
    layer: LayerWeights, part: Literal["o_proj", "down_proj"], salience: Tensor
) -> None:
    """Sort the input channels of ``part`` by ``salience`` fp32 [K], descending, ties as they are.

    Channels of o_proj stay in their head; query heads that share a value head share its order, by
    the largest salience among them.
    """
    assert torch.isfinite(salience).all()
    if part == "down_proj":
        order = _descending(salience)
        permute_outputs(layer, "mlp.gate_proj", order)
        permute_outputs(layer, "mlp.up_proj", order)
        permute_inputs(layer, "mlp.down_proj", order)
    else:
        head_orders = _descending(maximum_over_group(salience, layer.config))
        query_orders = repeat_over_group(head_orders, layer.config)
        permute_outputs(layer, "self_attn.v_proj", _across_heads(head_orders))
        permute_inputs(layer, "self_attn.o_proj", _across_heads(query_orders))


def _descending(salience: Tensor) -> Tensor:
    return salience.argsort(dim=-1, descending=True, stable=True)


def _across_heads(orders: Tensor) -> Tensor:
    """Channel numbers [H * D] from an order within each head, int64 [H, D]."""
    num_heads, head_dim = orders.shape
    return (orders + head_dim * torch.arange(num_heads)[:, None]).flatten()
