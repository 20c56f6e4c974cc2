"""``residual += x``, RMSNorm of the sum, and INT8 quantization of the result.

``y = r / sqrt(mean(r ** 2) + eps) * gain``, in fp32, a row at a time. One pass over a row instead
of three: the sum, the norm and the quantization all need the whole row and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.quantize import QuantizedActivations, quantize_activations


def add_rms_norm(x: Tensor | None, residual: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Add ``x`` ``[M, K]`` to ``residual`` in place (None adds nothing); return the norm of it."""
    if gain.shape != residual.shape[-1:]:
        raise ValueError(f"gain: expected {list(residual.shape[-1:])}, got {list(gain.shape)}")
    if x is not None:
        residual += x
    return rms_norm(residual, gain, eps)


def add_rms_norm_quantize(
    x: Tensor | None, residual: Tensor, gain: Tensor, eps: float, bits: int = 8
) -> QuantizedActivations:
    """As ``add_rms_norm``, with the result quantized per token."""
    return quantize_activations(add_rms_norm(x, residual, gain, eps), bits)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Computed in fp32; 16-bit input is rounded to its dtype before the gain, as models expect."""
    wide = x.float()
    scale = wide.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
    return (wide * scale).to(x.dtype).mul_(gain)


def rms_norm_reference(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The definition, in float64."""
    wide = x.double()
    normed = wide / torch.sqrt((wide**2).mean(dim=-1, keepdim=True) + eps)
    return (normed.to(x.dtype) * gain).to(x.dtype)
