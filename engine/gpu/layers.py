"""A decoder layer's parts on a GPU. Between them travel INT8 codes with scales and sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from qoq.engine.gpu.step import AttentionInputs, GpuStep, PrefillPart
from qoq.kernels.gpu.attention.decode_attention import decode_partials
from qoq.kernels.gpu.attention.merge_partials import merge_quantize
from qoq.kernels.gpu.attention.prefill_attention import prefill_attention
from qoq.kernels.gpu.gemm.dense_gemm import dense_config, dense_gemm_triton
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight
from qoq.kernels.gpu.gemm.w8a8 import w8a8_config, w8a8_gemm_triton
from qoq.kernels.gpu.quantized_rows import QuantizedRows, quantize_rows
from qoq.kernels.gpu.rms_norm import add_rms_norm_quantize_triton, add_rms_norm_triton
from qoq.kernels.gpu.rope_store_kv import HeadNorm, rope_store_kv_triton
from qoq.kernels.gpu.silu_mul import silu_mul_quantize_triton
from qoq.kernels.kv_cache import KvCache, KvFormat

GpuActivations = Tensor | QuantizedRows


class GpuLinear(Protocol):
    """``[M, K]`` to ``[M, N]``, or where it ``is_gated`` to ``silu(gate) * up`` ``[M, N / 2]``."""

    @property
    def is_gated(self) -> bool: ...

    def __call__(self, x: GpuActivations) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class W4A8Linear:
    gemm: W4A8Gemm
    weight: W4A8Weight
    bias: Tensor | None
    dtype: torch.dtype

    @property
    def is_gated(self) -> bool:
        return self.weight.is_gated

    def __call__(self, x: GpuActivations) -> Tensor:
        assert isinstance(x, QuantizedRows)
        return self.gemm(x.activations, self.weight, self.bias, self.dtype, x.sums)


@dataclass(frozen=True, slots=True)
class W8A8Linear:
    """INT8 ``weight`` ``[N, K]``, fp32 ``scales`` ``[N]``; shares the workspace of ``gemm``."""

    gemm: W4A8Gemm
    weight: Tensor
    scales: Tensor
    bias: Tensor | None
    dtype: torch.dtype

    @property
    def is_gated(self) -> bool:
        return False

    def __call__(self, x: GpuActivations) -> Tensor:
        return self.write(x, None)

    def write(self, x: GpuActivations, out: Tensor | None) -> Tensor:
        """Into ``out``, where there is one."""
        assert isinstance(x, QuantizedRows)
        config = w8a8_config(x.codes.shape[0], self.gemm.arch)
        return w8a8_gemm_triton(
            x.activations,
            self.weight,
            self.scales,
            config,
            self.gemm.workspace,
            self.bias,
            self.dtype,
            out,
        )


@dataclass(frozen=True, slots=True)
class DenseHead:
    """``lm_head`` of 16 bits ``[V, hidden]``; ``arch`` is the compute capability, 90 for sm_90."""

    weight: Tensor
    arch: int

    def __call__(self, x: GpuActivations) -> Tensor:
        return self.write(x, None)

    def write(self, x: GpuActivations, out: Tensor | None) -> Tensor:
        """Into ``out``, where there is one."""
        assert isinstance(x, Tensor)
        config = dense_config(x.shape[0], self.arch)
        return dense_gemm_triton(x, self.weight, config, out=out)


@dataclass(frozen=True, slots=True)
class GpuNorm:
    """Adds, norms and, but for a head of 16 bits, quantizes."""

    gain: Tensor
    eps: float
    quantizes: bool

    def __call__(self, x: Tensor | None, residual: Tensor) -> GpuActivations:
        norm = add_rms_norm_quantize_triton if self.quantizes else add_rms_norm_triton
        return norm(x, residual, self.gain, self.eps)


@dataclass(frozen=True, slots=True)
class GpuMlp:
    gate_up_proj: GpuLinear
    down_proj: GpuLinear

    def __call__(self, x: GpuActivations) -> Tensor:
        y = self.gate_up_proj(x)
        if not self.gate_up_proj.is_gated:
            return self.down_proj(silu_mul_quantize_triton(y))
        rows = QuantizedRows.allocate(y.shape[0], y.shape[1], y.device)
        quantize_rows(y, rows)
        return self.down_proj(rows)


@dataclass(frozen=True, slots=True)
class GpuAttention:
    """Output tokens attend by the decode kernel, prompt tokens by the prefill kernel, always.

    The two do not sum in the same order, so which one a token gets must not depend on how a step
    was cut.
    """

    qkv_proj: GpuLinear
    head_norm: HeadNorm | None
    fmt: KvFormat
    window: int | None

    def __call__(self, x: GpuActivations, cache: KvCache, step: GpuStep) -> GpuActivations:
        qkv = self.qkv_proj(x).unflatten(1, (-1, self.fmt.head_dim))
        q = rope_store_kv_triton(qkv, step.rope, cache, step.slots, self.fmt, self.head_norm)
        out = QuantizedRows.allocate(q.shape[0], q.shape[1] * q.shape[2], q.device)
        step.attend(partial(self._attend, cache), q, out)
        return out

    def _attend(
        self, cache: KvCache, inputs: AttentionInputs, q: Tensor, out: QuantizedRows
    ) -> None:
        first = len(inputs.decode_tables)
        if first:
            self._decode(q[:first], cache, inputs, out.rows(0, first))
        for part in inputs.prefills:
            stop = first + part.plans[self.window].num_tokens
            self._prefill(q[first:stop], cache, part, out.rows(first, stop))
            first = stop

    def _decode(
        self, q: Tensor, cache: KvCache, inputs: AttentionInputs, out: QuantizedRows
    ) -> None:
        plan = inputs.decode_plans[self.window]
        decode_partials(q, cache, inputs.decode_tables, plan, self.fmt, self.fmt.head_dim**-0.5)
        merge_quantize(plan, q, out)

    def _prefill(self, q: Tensor, cache: KvCache, part: PrefillPart, out: QuantizedRows) -> None:
        plan, scale = part.plans[self.window], self.fmt.head_dim**-0.5
        attention = prefill_attention(q, cache, part.tables, plan, self.fmt, scale)
        quantize_rows(attention.flatten(1), out)
