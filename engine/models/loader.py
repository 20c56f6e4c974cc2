"""Checkpoint to decoder, layer by layer: tensors are checked, fused and put in the CPU's layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.engine.checkpoint import Checkpoint, CheckpointError
from qoq.engine.layers.attention import Attention, QkNorm
from qoq.engine.layers.linear import DenseLinear, Int8Linear, Linear, stack_linears
from qoq.engine.layers.norm import AddNorm
from qoq.engine.layers.rotary import make_rope_table
from qoq.engine.models.config import ModelConfig
from qoq.engine.models.decoder import Decoder, DecoderLayer, Mlp
from qoq.engine.precision import Precision
from qoq.kernels.kv_cache import KvFormat
from qoq.kernels.w4a8_gemm import unpack_per_channel, unpack_per_group


def kv_format(config: ModelConfig, precision: Precision) -> KvFormat:
    dtype = torch.uint8 if precision.kv_bits else getattr(torch, precision.dtype)
    return KvFormat(config.num_kv_heads, config.head_dim, precision.kv_bits, dtype)


def load_decoder(
    checkpoint: Checkpoint, config: ModelConfig, precision: Precision, max_model_len: int
) -> Decoder:
    """Raises CheckpointError, naming the tensor, where the checkpoint does not fit its config."""
    loader = _Loader(checkpoint, config, precision)
    embedding = checkpoint.tensor(
        "model.embed_tokens.weight", config.vocab_size, config.hidden_size
    )
    lm_head = loader.int8_head() if "lm_head.scales" in checkpoint else loader.dense_head(embedding)
    return Decoder(
        embedding=embedding,
        layers=[loader.layer(index) for index in range(config.num_layers)],
        norm=loader.norm(
            "model.norm", activation_bits=8 if isinstance(lm_head, Int8Linear) else None
        ),
        lm_head=lm_head,
        rope_table=make_rope_table(config, max_model_len),
    )


@dataclass(frozen=True, slots=True)
class _Loader:
    checkpoint: Checkpoint
    config: ModelConfig
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision.dtype)
        return dtype

    def layer(self, index: int) -> DecoderLayer:
        name = f"model.layers.{index}"
        bits = self.precision.activation_bits
        return DecoderLayer(
            input_norm=self.norm(f"{name}.input_layernorm", bits),
            attention=self._attention(f"{name}.self_attn", self.config.windows[index]),
            post_attention_norm=self.norm(f"{name}.post_attention_layernorm", bits),
            mlp=self._mlp(f"{name}.mlp"),
        )

    def norm(self, name: str, activation_bits: int | None) -> AddNorm:
        gain = self.checkpoint.tensor(f"{name}.weight", self.config.hidden_size)
        return AddNorm(gain.to(self.dtype), self.config.rms_norm_eps, activation_bits)

    def int8_head(self) -> Linear:
        """Its activations have 8 bits wherever those of other layers have 8 or fewer."""
        vocab, hidden = self.config.vocab_size, self.config.hidden_size
        head = Int8Linear(
            self.checkpoint.tensor("lm_head.weight", vocab, hidden, dtype=torch.int8),
            self.checkpoint.tensor("lm_head.scales", vocab, dtype=torch.float32),
            bias=None,
        )
        return head if self.precision.activation_bits else head.dequantize(torch.float32)

    def dense_head(self, embedding: Tensor) -> Linear:
        is_tied = self.config.tie_word_embeddings or "lm_head.weight" not in self.checkpoint
        head = embedding if is_tied else self.checkpoint.tensor("lm_head.weight", *embedding.shape)
        return DenseLinear.from_weight(head.float())

    def _attention(self, name: str, window: int | None) -> Attention:
        config = self.config
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        qkv = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        return Attention(
            qkv_proj=self._fused(name, qkv, config.hidden_size),
            o_proj=self._fused(name, {"o_proj": config.hidden_size}, q_size),
            qk_norm=self._qk_norm(name) if config.has_qk_norm else None,
            num_heads=config.num_heads,
            fmt=kv_format(config, self.precision),
            window=window,
            activation_bits=self.precision.activation_bits,
        )

    def _qk_norm(self, name: str) -> QkNorm:
        q, k = (
            self.checkpoint.tensor(f"{name}.{part}_norm.weight", self.config.head_dim)
            for part in "qk"
        )
        return QkNorm(q.to(self.dtype), k.to(self.dtype), self.config.rms_norm_eps)

    def _mlp(self, name: str) -> Mlp:
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        return Mlp(
            gate_up_proj=self._fused(name, {"gate_proj": inner, "up_proj": inner}, hidden),
            down_proj=self._fused(name, {"down_proj": hidden}, inner),
            activation_bits=self.precision.activation_bits,
        )

    def _fused(self, parent: str, outputs: dict[str, int], k: int) -> Linear:
        """The projections ``outputs`` (name to N) of one input as a single layer."""
        names = {f"{parent}.{part}": n for part, n in outputs.items()}
        if self.precision.is_quantized:
            stacked = stack_linears([self._int8(name, n, k) for name, n in names.items()])
            return stacked if self.precision.activation_bits else stacked.dequantize(self.dtype)
        weights = [self.checkpoint.tensor(f"{name}.weight", n, k) for name, n in names.items()]
        biases = [self._bias(name, n) for name, n in names.items()]
        present = [bias for bias in biases if bias is not None]
        if present and len(present) != len(biases):
            raise CheckpointError(f"{parent}: either all of {list(outputs)} have a bias or none")
        return DenseLinear.from_weight(
            torch.cat([weight.to(self.dtype) for weight in weights]),
            torch.cat(present) if present else None,
        )

    def _int8(self, name: str, n: int, k: int) -> Int8Linear:
        scales = self.checkpoint.tensor(f"{name}.scales", n, dtype=torch.float32)
        try:
            weight = self._weight_bytes(name, n, k)
        except ValueError as error:
            raise CheckpointError(f"{self.checkpoint.folder}: {name}: {error}") from None
        return Int8Linear(weight, scales, self._bias(name, n))

    def _weight_bytes(self, name: str, n: int, k: int) -> Tensor:
        read = self.checkpoint.tensor
        if self.precision.weight_bits == 8:
            return read(f"{name}.weight", n, k, dtype=torch.int8)
        qweight = read(f"{name}.qweight", n, k // 2, dtype=torch.uint8)
        if f"{name}.zeros" in self.checkpoint:
            return unpack_per_channel(qweight, read(f"{name}.zeros", n, dtype=torch.uint8))
        group_scales = read(f"{name}.group_scales", n, -1, dtype=torch.uint8)
        group_offsets = read(f"{name}.group_offsets", *group_scales.shape, dtype=torch.int8)
        return unpack_per_group(qweight, group_scales, group_offsets)

    def _bias(self, name: str, n: int) -> Tensor | None:
        if f"{name}.bias" not in self.checkpoint:
            return None
        return self.checkpoint.tensor(f"{name}.bias", n).to(self.dtype)
