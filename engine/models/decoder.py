"""The decoder of the Llama family: what differs between models is in its config and its weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qoq.engine.layers.attention import Attention, StepTensors
from qoq.engine.layers.linear import Activations, Linear
from qoq.engine.layers.norm import AddNorm
from qoq.kernels.kv_cache import KvCache
from qoq.kernels.silu_mul import silu_mul, silu_mul_quantize


@dataclass(frozen=True, slots=True)
class Mlp:
    gate_up_proj: Linear
    down_proj: Linear
    activation_bits: int | None

    def __call__(self, x: Activations) -> Tensor:
        gate_up = self.gate_up_proj(x)
        if self.activation_bits is None:
            return self.down_proj(silu_mul(gate_up))
        return self.down_proj(silu_mul_quantize(gate_up, self.activation_bits))


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    input_norm: AddNorm
    attention: Attention
    post_attention_norm: AddNorm
    mlp: Mlp

    def __call__(
        self, x: Tensor | None, residual: Tensor, cache: KvCache, step: StepTensors
    ) -> Tensor:
        """What the layer adds to the residual stream; ``x`` is what the previous one adds."""
        x = self.attention(self.input_norm(x, residual), cache, step)
        return self.mlp(self.post_attention_norm(x, residual))


@dataclass(frozen=True, slots=True)
class Decoder:
    """``embedding`` ``[V, hidden]`` in 16 or 32 bits; the residual stream has ``norm``'s dtype.

    ``norm`` quantizes where ``lm_head`` is INT8.
    """

    embedding: Tensor
    layers: list[DecoderLayer]
    norm: AddNorm
    lm_head: Linear
    rope_table: Tensor

    def hidden_states(self, step: StepTensors, caches: list[KvCache], rows: Tensor) -> Activations:
        """Run a step; the final hidden states ``[R, hidden]`` of tokens ``rows`` int64 ``[R]``."""
        residual = self.embedding[step.input_ids].to(self.norm.gain.dtype)
        x: Tensor | None = None
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, residual, cache, step)
        assert x is not None
        return self.norm(x[rows], residual[rows])

    def logits(self, hidden: Activations) -> Tensor:
        """Fp32 ``[R, V]``."""
        return self.lm_head(hidden.float() if isinstance(hidden, Tensor) else hidden)
