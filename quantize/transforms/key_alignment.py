"""Key alignment: the channels that RoPE turns slowly come to point the same way.

The two channels of a RoPE pair may be turned by a fixed angle, in queries and keys alike, and every
score stays as it was. Pairs that RoPE hardly turns within a context hold nearly the same key for
every token; turned so that both of their channels are positive and equal, all such channels lie on
one side of zero, and the asymmetric range of a token's key narrows. Ours, not in the QoQ paper:
SmoothAttention can shrink a pair, but not turn it. On SmolLM2, 4-bit keys add 0.117 nats to the
loss, 0.085 with SmoothAttention and 0.047 with both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.query_groups import repeat_over_group


def align_keys(layer: LayerWeights, key_mean: Tensor) -> None:
    """``key_mean`` fp32 [num_kv_heads, head_dim]: mean key after RoPE.

    Nothing happens where norms follow the projections (Qwen3): their gains cannot be turned.
    """
    config = layer.config
    assert key_mean.shape == (config.num_kv_heads, config.head_dim)
    assert torch.isfinite(key_mean).all()
    if config.has_qk_norm:
        return
    first, second = key_mean.double().unflatten(-1, (2, -1)).unbind(dim=-2)
    angles = math.pi / 4 - torch.atan2(second, first)
    _turn_outputs(layer, "self_attn.q_proj", repeat_over_group(angles, config))
    _turn_outputs(layer, "self_attn.k_proj", angles)


def _turn_outputs(layer: LayerWeights, linear: str, angles: Tensor) -> None:
    """Turn each RoPE pair of rows, and of the bias, by ``angles`` fp64 [heads, head_dim / 2]."""
    for name in (f"{linear}.weight", f"{linear}.bias"):
        if (tensor := layer.tensors.get(name)) is not None:
            layer.tensors[name] = _turn(tensor, angles)


def _turn(tensor: Tensor, angles: Tensor) -> Tensor:
    """``tensor`` [heads * head_dim] or [heads * head_dim, K], in fp64, back to fp32."""
    pairs = tensor.double().reshape(*angles.shape[:1], 2, angles.shape[1], -1)
    first, second = pairs.unbind(dim=1)
    cos, sin = angles.cos()[..., None], angles.sin()[..., None]
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=1)
    return turned.reshape(tensor.shape).float()
