"""A checkpoint as a decoder of the CPU: 4-bit weights are unpacked to INT8, oneDNN packs others."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.engine.checkpoint import CheckpointError, TensorSource
from qoq.engine.cpu.attention import Attention, StepTensors
from qoq.engine.cpu.linear import (
    Activations,
    DenseHead,
    DenseLinear,
    Int8Linear,
    Linear,
    stack_linears,
)
from qoq.engine.cpu.mlp import Mlp
from qoq.engine.cpu.norm import AddNorm
from qoq.engine.models.config import ModelConfig
from qoq.engine.models.decoder import Decoder
from qoq.engine.models.loader import DecoderLoader, QkNorm, kv_format, stack_biases
from qoq.engine.precision import Precision
from qoq.kernels.w4a8_gemm import unpack_per_channel, unpack_per_group

CpuDecoder = Decoder[Activations, StepTensors]


def load_decoder(
    source: TensorSource, config: ModelConfig, precision: Precision, max_model_len: int
) -> CpuDecoder:
    """Raises CheckpointError, naming the tensor, where the checkpoint does not fit its config."""
    return _CpuLoader(source, config, precision).load(max_model_len)


class _CpuLoader(DecoderLoader[Activations, StepTensors, Linear]):
    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision.dtype)
        return dtype

    def norm(self, name: str, quantizes: bool) -> AddNorm:
        """An INT8 head's activations have 8 bits wherever those of layers have 8 or fewer."""
        bits = 8 if name == "model.norm" else self.precision.activation_bits
        gain = self.gain(name, self.config.hidden_size)
        return AddNorm(gain, self.config.rms_norm_eps, bits if quantizes else None)

    def attention(self, qkv_proj: Linear, qk_norm: QkNorm | None, window: int | None) -> Attention:
        return Attention(
            qkv_proj=qkv_proj,
            qk_norm=qk_norm,
            num_heads=self.config.num_heads,
            fmt=kv_format(self.config, self.precision),
            window=window,
            activation_bits=self.precision.activation_bits,
        )

    def mlp(self, gate_up_proj: Linear, down_proj: Linear) -> Mlp:
        return Mlp(gate_up_proj, down_proj, self.precision.activation_bits)

    def fused(self, parent: str, outputs: dict[str, int], k: int) -> Linear:
        names = {f"{parent}.{part}": n for part, n in outputs.items()}
        if self.precision.is_quantized:
            stacked = stack_linears([self._int8(name, n, k) for name, n in names.items()])
            return stacked if self.precision.activation_bits else stacked.dequantize(self.dtype)
        parts = [self.read_dense(name, n, k) for name, n in names.items()]
        return DenseLinear.from_weight(
            torch.cat([weight.to(self.dtype) for weight, _ in parts]),
            stack_biases(parent, list(outputs), [bias for _, bias in parts]),
        )

    def int8_head(self) -> Linear:
        vocab, hidden = self.config.vocab_size, self.config.hidden_size
        head = Int8Linear(
            self.source.tensor("lm_head.weight", vocab, hidden, dtype=torch.int8),
            self.source.tensor("lm_head.scales", vocab, dtype=torch.float32),
            bias=None,
        )
        if self.precision.activation_bits:
            return head
        return DenseHead(head.dequantize(torch.float32))

    def dense_head(self, weight: Tensor) -> Linear:
        return DenseHead(DenseLinear.from_weight(weight.float()))

    def _int8(self, name: str, n: int, k: int) -> Int8Linear:
        read = self.read_quantized(name, n, k)
        try:
            if read.zeros is not None:
                weight = unpack_per_channel(read.codes, read.zeros)
            elif read.groups is not None:
                weight = unpack_per_group(read.codes, *read.groups)
            else:
                weight = read.codes
        except ValueError as error:
            raise CheckpointError(f"{self.source.folder}: {name}: {error}") from None
        return Int8Linear(weight, read.scales, read.bias)
