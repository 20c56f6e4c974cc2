"""``silu(gate) * up`` over a fused projection, and INT8 quantization of the result.

``silu(g) = g / (1 + exp(-g))``. Written with ``exp`` because torch's own ``silu`` gives an element
other bits when it falls into the tail of a vectorised loop, and where the tail falls depends on the
number of rows. ``exp`` has no such tail, so a row's bits do not depend on its company.
"""

from __future__ import annotations

from torch import Tensor

from qoq.kernels.quantize import QuantizedActivations, quantize_activations


def silu_mul(gate_up: Tensor) -> Tensor:
    """``[M, 2 I]``, gate first, to ``[M, I]`` in the same dtype; computed in fp32.

    Raises:
        ValueError: the last dimension is odd.
    """
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up: the last dimension must be even, got {gate_up.shape[-1]}")
    gate, up = gate_up.float().chunk(2, dim=-1)
    return gate.neg().exp_().add_(1.0).reciprocal_().mul_(gate).mul_(up).to(gate_up.dtype)


def silu_mul_quantize(gate_up: Tensor, bits: int = 8) -> QuantizedActivations:
    """As ``silu_mul``, with the result quantized per token."""
    return quantize_activations(silu_mul(gate_up), bits)


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """The definition, in float64."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return (gate / (1 + (-gate).exp()) * up).to(gate_up.dtype)
