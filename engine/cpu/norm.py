"""RMSNorm with the residual addition before it and, where the next layer wants it, quantization."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qoq.engine.cpu.linear import Activations
from qoq.kernels.rms_norm import add_rms_norm, add_rms_norm_quantize


@dataclass(frozen=True, slots=True)
class AddNorm:
    """``residual += x`` in place, then the norm of the residual; None bits leave it unquantized."""

    gain: Tensor
    eps: float
    activation_bits: int | None

    def __call__(self, x: Tensor | None, residual: Tensor) -> Activations:
        if self.activation_bits is None:
            return add_rms_norm(x, residual, self.gain, self.eps)
        return add_rms_norm_quantize(x, residual, self.gain, self.eps, self.activation_bits)
