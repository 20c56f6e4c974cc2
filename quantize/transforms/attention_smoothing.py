"""SmoothAttention: keys lose their outlier channels to the queries, which stay in 16 bits.

``q_i * lambda_i`` and ``k_i / lambda_i`` leave every score as it was. RoPE turns channels i and
i + D/2 into each other, so the two share a lambda (QoQ, arXiv 2405.04532, section 4.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.channels import scale_outputs
from qoq.quantize.transforms.query_groups import repeat_over_group


def smooth_attention(layer: LayerWeights, key_max: Tensor, alpha: float) -> None:
    """``key_max`` fp32 [num_kv_heads, head_dim]: largest |key| of each channel after RoPE.

    Query heads share the lambdas of their key head. Where norms follow the projections (Qwen3),
    the norms' gains take the lambdas, and all heads share the maximum.
    """
    config = layer.config
    assert key_max.shape == (config.num_kv_heads, config.head_dim)
    if config.has_qk_norm:
        _scale_gains(layer, _pair_lambdas(key_max.amax(dim=0), alpha))
        return
    lambdas = _pair_lambdas(key_max, alpha)
    scale_outputs(layer, "self_attn.q_proj", repeat_over_group(lambdas, config).flatten())
    scale_outputs(layer, "self_attn.k_proj", 1 / lambdas.flatten())


def _pair_lambdas(key_max: Tensor, alpha: float) -> Tensor:
    """``max(key_max_i, key_max_{i + D/2}) ** alpha`` [..., D]; 1 where that is zero or its
    reciprocal might leave fp32.
    """
    assert torch.isfinite(key_max).all()
    pairs = key_max.unflatten(-1, (2, -1)).amax(dim=-2)
    lambdas = torch.where(pairs > torch.finfo(pairs.dtype).tiny, pairs**alpha, 1.0)
    return torch.cat((lambdas, lambdas), dim=-1)


def _scale_gains(layer: LayerWeights, lambdas: Tensor) -> None:
    """``lambdas`` [head_dim]."""
    tensors = layer.tensors
    tensors["self_attn.q_norm.weight"] = tensors["self_attn.q_norm.weight"] * lambdas
    tensors["self_attn.k_norm.weight"] = tensors["self_attn.k_norm.weight"] / lambdas
