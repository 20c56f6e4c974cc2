"""Calibration samples on their way through a layer, a chunk of them at a time.

Holds the hidden states of all samples, the trace of one chunk, and what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qoq.engine.models.config import ModelConfig
from qoq.engine.precision import Precision
from qoq.quantize.calibration.layer_forward import LayerForward, LayerTrace
from qoq.quantize.layer_weights import LayerWeights

CHUNK_SAMPLES = 8
# The field of a trace that each weight multiplies.
INPUTS = {
    "self_attn.q_proj.weight": "qkv_input",
    "self_attn.k_proj.weight": "qkv_input",
    "self_attn.v_proj.weight": "qkv_input",
    "self_attn.o_proj.weight": "o_input",
    "mlp.gate_proj.weight": "gate_up_input",
    "mlp.up_proj.weight": "gate_up_input",
    "mlp.down_proj.weight": "down_input",
}


@dataclass(frozen=True, slots=True)
class Samples:
    """``hidden`` fp32 [S, T, hidden]: what a layer reads."""

    forward: LayerForward
    hidden: Tensor

    @classmethod
    def of(cls, config: ModelConfig, precision: Precision, hidden: Tensor) -> Self:
        """``precision`` rounds activations, keys and values."""
        forward = LayerForward.of(config, precision, hidden.shape[1], CHUNK_SAMPLES)
        return cls(forward, hidden)

    def trace(self, layer: LayerWeights) -> LayerTrace:
        """Of the first chunk: enough for maxima and means."""
        return next(self._traces(layer))

    def grams(self, layer: LayerWeights) -> dict[str, Tensor]:
        """``X.T @ X`` over all tokens, fp32 [K, K], by the field of the trace that holds X."""
        grams: dict[str, Tensor] = {}
        for trace in self._traces(layer):
            for name in dict.fromkeys(INPUTS.values()):
                x: Tensor = getattr(trace, name)
                grams.setdefault(name, x.new_zeros(x.shape[1], x.shape[1])).addmm_(x.T, x)
        return grams

    def output(self, layer: LayerWeights) -> Tensor:
        """Hidden states [S, T, hidden] after the layer."""
        return torch.cat([trace.output for trace in self._traces(layer)])

    def _traces(self, layer: LayerWeights) -> Iterator[LayerTrace]:
        return (self.forward(layer, chunk) for chunk in self.hidden.split(CHUNK_SAMPLES))
