"""Checkpoint to decoder, layer by layer: names and shapes here, a device's own layers elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from qoq.engine.checkpoint import CheckpointError, TensorSource
from qoq.engine.models.config import ModelConfig
from qoq.engine.models.decoder import A, Decoder, DecoderLayer, Norm, Projection, S, SelfAttention
from qoq.engine.models.rotary import make_rope_table
from qoq.engine.precision import Precision
from qoq.kernels.kv_cache import KvFormat

L = TypeVar("L", bound=Projection[Any])


def kv_format(config: ModelConfig, precision: Precision) -> KvFormat:
    dtype = torch.uint8 if precision.kv_bits else getattr(torch, precision.dtype)
    return KvFormat(config.num_kv_heads, config.head_dim, precision.kv_bits, dtype)


class QkNorm(NamedTuple):
    """RMSNorm of each query and key head, gains ``[head_dim]`` (Qwen3)."""

    q_gain: Tensor
    k_gain: Tensor
    eps: float


class QuantizedTensors(NamedTuple):
    """A quantized ``[N, K]`` of a checkpoint: codes, fp32 ``scales`` ``[N]``, bias or None.

    ``codes`` are int8 ``[N, K]``, or uint8 ``[N, K / 2]`` with ``groups`` (scales uint8, offsets
    int8, ``[N, G]``) or ``zeros`` uint8 ``[N]``.
    """

    codes: Tensor
    scales: Tensor
    groups: tuple[Tensor, Tensor] | None
    zeros: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class DecoderLoader(ABC, Generic[A, S, L]):
    """``L`` is the device's linear layer. Tensors come from ``source`` checked for their shape."""

    source: TensorSource
    config: ModelConfig
    precision: Precision

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the residual stream."""

    @abstractmethod
    def norm(self, name: str, quantizes: bool) -> Norm[A]: ...

    @abstractmethod
    def attention(
        self, qkv_proj: L, qk_norm: QkNorm | None, window: int | None
    ) -> SelfAttention[A, S]: ...

    @abstractmethod
    def mlp(self, gate_up_proj: L, down_proj: L) -> Projection[A]: ...

    @abstractmethod
    def fused(self, parent: str, outputs: dict[str, int], k: int) -> L:
        """The projections ``outputs`` (name to N) of one input as a single layer."""

    @abstractmethod
    def int8_head(self) -> Projection[A]: ...

    @abstractmethod
    def dense_head(self, weight: Tensor) -> Projection[A]: ...

    def load(self, max_model_len: int) -> Decoder[A, S]:
        """Raises CheckpointError, naming the tensor, where the source does not fit its config."""
        config = self.config
        embedding = self.source.tensor(
            "model.embed_tokens.weight", config.vocab_size, config.hidden_size
        )
        is_int8 = "lm_head.scales" in self.source
        lm_head = self.int8_head() if is_int8 else self._dense_head(embedding)
        return Decoder(
            embedding=self.embedding(embedding),
            layers=[self._layer(index) for index in range(config.num_layers)],
            norm=self.norm("model.norm", quantizes=is_int8 and self._quantizes),
            lm_head=lm_head,
            rope_table=self.place(make_rope_table(config, max_model_len)),
            dtype=self.dtype,
        )

    def embedding(self, weight: Tensor) -> Tensor:
        return self.place(weight)

    def place(self, tensor: Tensor) -> Tensor:
        """On the device."""
        return tensor

    def gain(self, name: str, size: int) -> Tensor:
        return self.place(self.source.tensor(f"{name}.weight", size).to(self.dtype))

    def read_quantized(self, name: str, n: int, k: int) -> QuantizedTensors:
        read = self.source.tensor
        if self.precision.weight_bits == 8:
            codes = read(f"{name}.weight", n, k, dtype=torch.int8)
        else:
            codes = read(f"{name}.qweight", n, k // 2, dtype=torch.uint8)
        scales = read(f"{name}.scales", n, dtype=torch.float32)
        bias = self._bias(name, n)
        if codes.dtype == torch.int8:
            return QuantizedTensors(codes, scales, None, None, bias)
        if f"{name}.zeros" in self.source:
            zeros = read(f"{name}.zeros", n, dtype=torch.uint8)
            return QuantizedTensors(codes, scales, None, zeros, bias)
        group_scales = read(f"{name}.group_scales", n, -1, dtype=torch.uint8)
        group_offsets = read(f"{name}.group_offsets", *group_scales.shape, dtype=torch.int8)
        return QuantizedTensors(codes, scales, (group_scales, group_offsets), None, bias)

    def read_dense(self, name: str, n: int, k: int) -> tuple[Tensor, Tensor | None]:
        return self.source.tensor(f"{name}.weight", n, k), self._bias(name, n)

    @property
    def _quantizes(self) -> bool:
        return self.precision.activation_bits is not None

    def _layer(self, index: int) -> DecoderLayer[A, S]:
        name, config = f"model.layers.{index}", self.config
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        hidden, inner = config.hidden_size, config.intermediate_size
        qkv = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        return DecoderLayer(
            input_norm=self.norm(f"{name}.input_layernorm", self._quantizes),
            attention=self.attention(
                self.fused(attention, qkv, hidden),
                self._qk_norm(attention) if config.has_qk_norm else None,
                config.windows[index],
            ),
            o_proj=self.fused(attention, {"o_proj": hidden}, q_size),
            post_attention_norm=self.norm(f"{name}.post_attention_layernorm", self._quantizes),
            mlp=self.mlp(
                self.fused(mlp, {"gate_proj": inner, "up_proj": inner}, hidden),
                self.fused(mlp, {"down_proj": hidden}, inner),
            ),
        )

    def _qk_norm(self, name: str) -> QkNorm:
        q, k = (self.gain(f"{name}.{part}_norm", self.config.head_dim) for part in "qk")
        return QkNorm(q, k, self.config.rms_norm_eps)

    def _dense_head(self, embedding: Tensor) -> Projection[A]:
        is_tied = self.config.tie_word_embeddings or "lm_head.weight" not in self.source
        if is_tied:
            return self.dense_head(embedding)
        return self.dense_head(self.source.tensor("lm_head.weight", *embedding.shape))

    def _bias(self, name: str, n: int) -> Tensor | None:
        if f"{name}.bias" not in self.source:
            return None
        return self.source.tensor(f"{name}.bias", n).to(self.dtype)


def stack_biases(parent: str, names: list[str], biases: list[Tensor | None]) -> Tensor | None:
    """Of projections side by side. Raises CheckpointError where only some have one."""
    present = [bias for bias in biases if bias is not None]
    if present and len(present) != len(biases):
        raise CheckpointError(f"{parent}: either all of {names} have a bias or none")
    return torch.cat(present) if present else None
