"""Linear layers, one class a precision. What goes in is what the layer multiplies.

A quantized layer takes activations that are quantized already, so that whoever produces them can
do it in the same pass; ``Activations`` is what travels between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qoq.kernels.dense_linear import dense_linear, pack_dense
from qoq.kernels.int8_gemm import int8_gemm
from qoq.kernels.quantize import QuantizedActivations

Activations = Tensor | QuantizedActivations


class Linear(Protocol):
    """``[M, K]`` to ``[M, N]``."""

    def __call__(self, x: Activations) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """INT8 ``weight`` ``[N, K]`` (4-bit codes were unpacked to it), fp32 ``scales`` ``[N]``."""

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __call__(self, x: Activations) -> Tensor:
        assert isinstance(x, QuantizedActivations)
        return int8_gemm(x, self.weight, self.scales, self.bias)

    def dequantize(self, dtype: torch.dtype) -> DenseLinear:
        """The same weight for unquantized activations of ``dtype``."""
        return DenseLinear.from_weight((self.weight * self.scales[:, None]).to(dtype), self.bias)


@dataclass(frozen=True, slots=True)
class DenseLinear:
    packed: Tensor
    bias: Tensor | None

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> DenseLinear:
        return cls(pack_dense(weight), bias)

    def __call__(self, x: Activations) -> Tensor:
        assert isinstance(x, Tensor)
        return dense_linear(x, self.packed, self.bias)


@dataclass(frozen=True, slots=True)
class DenseHead:
    """``lm_head``: logits are fp32 whatever the model's dtype."""

    linear: DenseLinear

    def __call__(self, x: Activations) -> Tensor:
        assert isinstance(x, Tensor)
        return self.linear(x.float())


def stack_linears(parts: list[Int8Linear]) -> Int8Linear:
    """One layer whose outputs are those of ``parts`` side by side (qkv, gate_up)."""
    biases = [part.bias for part in parts]
    present = [bias for bias in biases if bias is not None]
    if present and len(present) != len(biases):
        raise ValueError("bias: either all stacked projections have one or none has")
    return Int8Linear(
        torch.cat([part.weight for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(present) if present else None,
    )
