"""One decoder layer in plain fp32 torch, with what each of its linear layers reads.

The engine's arithmetic, on whole samples. A quantized precision rounds activations, keys and values
as the engine would; what the weights hold is up to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from qoq.engine.models.config import ModelConfig
from qoq.engine.models.rotary import make_rope_table
from qoq.engine.precision import Precision
from qoq.kernels.kv_cache import dequantize_kv, quantize_kv
from qoq.kernels.quantize import quantize_activations
from qoq.kernels.rms_norm import rms_norm
from qoq.kernels.rope import apply_rope
from qoq.kernels.silu_mul import silu_mul
from qoq.quantize.layer_weights import LayerWeights


class LayerTrace(NamedTuple):
    """Fp32. Inputs of the linear layers are [S * T, K], before they are rounded; ``queries``
    [S * T, heads, head_dim] and ``keys`` [S * T, kv_heads, head_dim] come after RoPE. ``output``
    [S, T, hidden] is the residual stream after the layer.
    """

    qkv_input: Tensor
    queries: Tensor
    keys: Tensor
    o_input: Tensor
    gate_up_input: Tensor
    down_input: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class LayerForward:
    """``rope`` fp32 [P, T, 3, head_dim / 2]: the rows of the RoPE table for samples of T tokens,
    up to P of them at a time, each at its own place in a context.
    """

    config: ModelConfig
    precision: Precision
    rope: Tensor

    @classmethod
    def of(
        cls, config: ModelConfig, precision: Precision, length: int, max_samples: int = 1
    ) -> Self:
        """Samples follow each other through the positions of the model, over and over."""
        places = min(max_samples, max(1, config.max_position_embeddings // length))
        table = make_rope_table(config, places * length).unflatten(0, (places, length))
        return cls(config, precision, table[torch.arange(max_samples) % places])

    def __call__(self, layer: LayerWeights, hidden: Tensor) -> LayerTrace:
        """Run ``hidden`` fp32 [S, T, hidden] through ``layer``, ``S`` at most P."""
        eps, gains = self.config.rms_norm_eps, layer.tensors
        stream = hidden.flatten(0, 1)
        qkv_input = rms_norm(stream, gains["input_layernorm.weight"], eps)
        queries, keys, values = self._project(layer, qkv_input, len(hidden))
        o_input = self._attend(layer, queries, keys, values)
        stream = stream + self._linear(layer, "self_attn.o_proj", o_input)
        gate_up_input = rms_norm(stream, gains["post_attention_layernorm.weight"], eps)
        gate_up = [
            self._linear(layer, f"mlp.{part}_proj", gate_up_input) for part in ("gate", "up")
        ]
        down_input = silu_mul(torch.cat(gate_up, dim=1))
        output = (stream + self._linear(layer, "mlp.down_proj", down_input)).view_as(hidden)
        return LayerTrace(qkv_input, queries, keys, o_input, gate_up_input, down_input, output)

    def _project(
        self, layer: LayerWeights, x: Tensor, num_samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [S * T, heads, head_dim]."""
        heads, rope = (-1, self.config.head_dim), self.rope[:num_samples].flatten(0, 1)
        q, k, v = (
            self._linear(layer, f"self_attn.{part}_proj", x).unflatten(1, heads) for part in "qkv"
        )
        if self.config.has_qk_norm:
            q = rms_norm(q, layer.tensors["self_attn.q_norm.weight"], self.config.rms_norm_eps)
            k = rms_norm(k, layer.tensors["self_attn.k_norm.weight"], self.config.rms_norm_eps)
        return apply_rope(q, rope), apply_rope(k, rope), v

    def _attend(self, layer: LayerWeights, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[S * T, heads * head_dim]; RoPE is done."""
        length, window = self.rope.shape[1], self.config.windows[layer.index]
        q, k, v = (
            x.unflatten(0, (-1, length)).transpose(1, 2)
            for x in (queries, self._round_kv(keys), self._round_kv(values))
        )
        mask = None if window is None else _mask(length, window)
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=window is None, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(0, 1).flatten(1)

    def _linear(self, layer: LayerWeights, name: str, x: Tensor) -> Tensor:
        if self.precision.is_quantized:
            codes, scales = quantize_activations(x)
            x = codes * scales
        weight, bias = layer.tensors[f"{name}.weight"], layer.tensors.get(f"{name}.bias")
        return functional.linear(x, weight, bias)

    def _round_kv(self, kv: Tensor) -> Tensor:
        if self.precision.kv_bits is None:
            return kv
        return dequantize_kv(*quantize_kv(kv, self.precision.kv_bits))


def _mask(length: int, window: int) -> Tensor:
    """[T, T], True where a token (row) sees a position: its own and the ``window - 1`` before."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance < window)
