"""Scaling and permuting the input and output channels of one linear layer, bias included."""

from __future__ import annotations

from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights


def scale_inputs(layer: LayerWeights, linear: str, factors: Tensor) -> None:
    """Multiply column j by ``factors`` fp32 [K]; ``linear`` is a name like ``mlp.up_proj``."""
    layer.tensors[f"{linear}.weight"] = layer.tensors[f"{linear}.weight"] * factors


def scale_outputs(layer: LayerWeights, linear: str, factors: Tensor) -> None:
    """Multiply row i, and the bias, by ``factors`` fp32 [N]."""
    layer.tensors[f"{linear}.weight"] = layer.tensors[f"{linear}.weight"] * factors[:, None]
    if (bias := layer.tensors.get(f"{linear}.bias")) is not None:
        layer.tensors[f"{linear}.bias"] = bias * factors


def permute_inputs(layer: LayerWeights, linear: str, order: Tensor) -> None:
    """Column j becomes what column ``order[j]`` was; ``order`` int64 [K]."""
    layer.tensors[f"{linear}.weight"] = layer.tensors[f"{linear}.weight"][:, order]


def permute_outputs(layer: LayerWeights, linear: str, order: Tensor) -> None:
    """Row i, and the bias, becomes what row ``order[i]`` was; ``order`` int64 [N]."""
    for name in (f"{linear}.weight", f"{linear}.bias"):
        if name in layer.tensors:
            layer.tensors[name] = layer.tensors[name][order]
