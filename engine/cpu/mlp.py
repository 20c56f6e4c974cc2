"""The gated MLP: project, SiLU(gate) * up, project."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qoq.engine.cpu.linear import Activations, Linear
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
