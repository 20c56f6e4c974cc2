"""Rotation of each head's values, so that o_proj reads an input without outlier channels.

Attention mixes the values of tokens and never their channels, so a rotation of ``v`` comes out of
it unchanged and o_proj takes it back.
"""

from __future__ import annotations

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.rotation import Rotation


def rotate_heads(layer: LayerWeights) -> None:
    """Every head by the same Hadamard of order head_dim."""
    tensors, heads = layer.tensors, (-1, layer.config.head_dim)
    rotation = Rotation.for_size(layer.config.head_dim)
    values = tensors["self_attn.v_proj.weight"].unflatten(0, heads)
    tensors["self_attn.v_proj.weight"] = rotation.rotate_outputs(values).flatten(0, 1)
    if (bias := tensors.get("self_attn.v_proj.bias")) is not None:
        rotated = rotation.rotate_inputs(bias.unflatten(0, heads))
        tensors["self_attn.v_proj.bias"] = rotated.flatten()
    inputs = tensors["self_attn.o_proj.weight"].unflatten(1, heads)
    tensors["self_attn.o_proj.weight"] = rotation.rotate_inputs(inputs).flatten(1)
