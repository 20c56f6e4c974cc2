"""Output-module smoothing: o_proj and down_proj trade magnitude with the layer that feeds them.

Input channel j is divided by ``lambda_j = input_max_j ** alpha / weight_max_j ** (1 - alpha)`` in
the producer (v_proj, up_proj) and multiplied by it in the consumer's column. A small alpha evens
out the weights, a large one the activations (QoQ, arXiv 2405.04532, section 4.3.2).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.channels import scale_inputs, scale_outputs
from qoq.quantize.transforms.query_groups import maximum_over_group, repeat_over_group

MAX_LAMBDA = 2.0**16  # a channel that hardly exists must not overflow the row that makes it


def smooth_outputs(
    layer: LayerWeights,
    part: Literal["o_proj", "down_proj"],
    input_max: Tensor,
    alpha: float,
) -> None:
    """``input_max`` fp32 [K]: largest |input| of each channel of ``part``.

    Query heads that share a value head share its lambdas, from the maxima over the heads.
    """
    if part == "down_proj":
        lambdas = _lambdas(input_max, _column_max(layer, "mlp.down_proj"), alpha)
        scale_outputs(layer, "mlp.up_proj", 1 / lambdas)
        scale_inputs(layer, "mlp.down_proj", lambdas)
    else:
        config = layer.config
        weight_max = maximum_over_group(_column_max(layer, "self_attn.o_proj"), config)
        lambdas = _lambdas(maximum_over_group(input_max, config), weight_max, alpha)
        scale_outputs(layer, "self_attn.v_proj", 1 / lambdas.flatten())
        scale_inputs(layer, "self_attn.o_proj", repeat_over_group(lambdas, config).flatten())


def _column_max(layer: LayerWeights, linear: str) -> Tensor:
    return layer.tensors[f"{linear}.weight"].abs().amax(dim=0)


def _lambdas(input_max: Tensor, weight_max: Tensor, alpha: float) -> Tensor:
    """Fp32, in the shape of the maxima. 1 where a channel or its weights are zero; the others have
    a geometric mean of 1, since a common factor changes no code but may leave fp16.
    """
    assert input_max.shape == weight_max.shape and torch.isfinite(input_max).all()
    is_used = (input_max > 0) & (weight_max > 0)
    logs = alpha * input_max.double().log() - (1 - alpha) * weight_max.double().log()
    lambdas = torch.ones_like(input_max)
    lambdas[is_used] = (logs[is_used] - logs[is_used].mean()).exp().float()
    return lambdas.clamp_(1 / MAX_LAMBDA, MAX_LAMBDA)
