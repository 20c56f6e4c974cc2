"""Self-attention over the paged cache: project, rotate, store, attend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.engine.cpu.linear import Activations, Linear
from qoq.engine.models.loader import QkNorm
from qoq.kernels.attention_plan import AttentionPlan
from qoq.kernels.kv_cache import KvCache, KvFormat, SlotMapping
from qoq.kernels.paged_attention import paged_attention
from qoq.kernels.quantize import quantize_activations
from qoq.kernels.rms_norm import rms_norm
from qoq.kernels.rope_store_kv import rope_store_kv


@dataclass(frozen=True, slots=True)
class StepTensors:
    """What every layer needs of a step: ``M`` tokens, flattened over the requests.

    ``plans`` maps a sliding window (None: no window) to its attention plan.
    """

    input_ids: Tensor
    rope: Tensor
    slots: SlotMapping
    plans: Mapping[int | None, AttentionPlan]

    def embed(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        return table[self.input_ids].to(dtype)


@dataclass(frozen=True, slots=True)
class Attention:
    qkv_proj: Linear
    qk_norm: QkNorm | None
    num_heads: int
    fmt: KvFormat
    window: int | None
    activation_bits: int | None

    def __call__(self, x: Activations, cache: KvCache, step: StepTensors) -> Activations:
        qkv = self.qkv_proj(x).unflatten(1, (-1, self.fmt.head_dim))
        if self.qk_norm is not None:
            qkv = self._norm_heads(qkv, self.qk_norm)
        q = rope_store_kv(qkv, step.rope, cache, step.slots, self.fmt)
        plan = step.plans[self.window]
        out = paged_attention(q, cache, plan, self.fmt, self.fmt.head_dim**-0.5).flatten(1)
        if self.activation_bits is None:
            return out
        return quantize_activations(out, self.activation_bits)

    def _norm_heads(self, qkv: Tensor, norm: QkNorm) -> Tensor:
        q, k, v = qkv.split([self.num_heads, self.fmt.num_kv_heads, self.fmt.num_kv_heads], dim=1)
        q = rms_norm(q, norm.q_gain, norm.eps)
        k = rms_norm(k, norm.k_gain, norm.eps)
        return torch.cat((q, k, v), dim=1)
