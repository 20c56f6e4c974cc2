"""A checkpoint as a decoder of a GPU: logical tensors go there and are put into kernels' order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.engine.checkpoint import CheckpointError
from qoq.engine.gpu.layers import (
    DenseHead,
    GpuActivations,
    GpuAttention,
    GpuLinear,
    GpuMlp,
    GpuNorm,
    W4A8Linear,
    W8A8Linear,
)
from qoq.engine.gpu.step import GpuStep
from qoq.engine.models.decoder import Decoder
from qoq.engine.models.loader import (
    DecoderLoader,
    QkNorm,
    QuantizedTensors,
    kv_format,
    stack_biases,
)
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.gpu.gemm.w4a8_weight import (
    can_pair,
    pack_per_channel,
    pack_per_group,
    pair_rows,
)
from qoq.kernels.gpu.rope_store_kv import HeadNorm

GATED = ["gate_proj", "up_proj"]

GpuDecoder = Decoder[GpuActivations, GpuStep]


@dataclass(frozen=True)
class GpuLoader(DecoderLoader[GpuActivations, GpuStep, GpuLinear]):
    """``model_dtype`` fp16 or bf16 of the residual stream. ``load`` as ever."""

    device: torch.device
    model_dtype: torch.dtype
    gemm: W4A8Gemm

    @property
    def dtype(self) -> torch.dtype:
        return self.model_dtype

    def place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def embedding(self, weight: Tensor) -> Tensor:
        return self.place(weight).to(self.dtype)

    def norm(self, name: str, quantizes: bool) -> GpuNorm:
        gain = self.gain(name, self.config.hidden_size)
        return GpuNorm(gain, self.config.rms_norm_eps, quantizes)

    def attention(
        self, qkv_proj: GpuLinear, qk_norm: QkNorm | None, window: int | None
    ) -> GpuAttention:
        head_norm = None if qk_norm is None else HeadNorm(*qk_norm)
        fmt = kv_format(self.config, self.precision)
        return GpuAttention(qkv_proj, head_norm, fmt, window)

    def mlp(self, gate_up_proj: GpuLinear, down_proj: GpuLinear) -> GpuMlp:
        return GpuMlp(gate_up_proj, down_proj)

    def fused(self, parent: str, outputs: dict[str, int], k: int) -> GpuLinear:
        parts = [self.read_quantized(f"{parent}.{part}", n, k) for part, n in outputs.items()]
        bias = stack_biases(parent, list(outputs), [part.bias for part in parts])
        is_gated = list(outputs) == GATED and can_pair(sum(outputs.values()))
        try:
            return self._linear(parts, None if bias is None else self.place(bias), is_gated)
        except ValueError as error:
            raise CheckpointError(f"{self.source.folder}: {parent}: {error}") from None

    def int8_head(self) -> GpuLinear:
        vocab, hidden = self.config.vocab_size, self.config.hidden_size
        weight = self.source.tensor("lm_head.weight", vocab, hidden, dtype=torch.int8)
        scales = self.source.tensor("lm_head.scales", vocab, dtype=torch.float32)
        return W8A8Linear(self.gemm, self.place(weight), self.place(scales), None, torch.float32)

    def dense_head(self, weight: Tensor) -> DenseHead:
        return DenseHead(self.place(weight).to(self.dtype).contiguous(), self.gemm.arch)

    def _linear(
        self, parts: list[QuantizedTensors], bias: Tensor | None, is_gated: bool
    ) -> GpuLinear:
        """INT8 weights stay as they are, and none of them is gated."""
        codes = self._join([part.codes for part in parts])
        scales = self._join([part.scales for part in parts])
        if codes.dtype == torch.int8:
            return W8A8Linear(self.gemm, codes, scales, bias, self.dtype)
        groups = [part.groups for part in parts if part.groups is not None]
        if groups:
            group_scales, group_offsets = (self._join(t) for t in zip(*groups, strict=True))
            weight = pack_per_group(codes, scales, group_scales, group_offsets, is_gated)
        else:
            zeros = self._join([part.zeros for part in parts if part.zeros is not None])
            weight = pack_per_channel(codes, scales, zeros, is_gated)
        if bias is not None and is_gated:
            bias = pair_rows(bias)
        return W4A8Linear(self.gemm, weight, bias, self.dtype)

    def _join(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([self.place(tensor) for tensor in tensors])
