"""One tensor of a model to the tensors that a checkpoint stores for it, by rounding to nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qoq.engine.precision import PRECISIONS
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import QuantizationConfig
from qoq.quantize.sources.model_source import ModelSource, is_decoder_linear
from qoq.quantize.weights.channel_weight import round_to_channels
from qoq.quantize.weights.group_size import fit_group_sizes
from qoq.quantize.weights.int8_weight import round_to_int8
from qoq.quantize.weights.progressive_weight import round_to_groups


@dataclass(frozen=True, slots=True)
class Rounding:
    """``group_sizes`` by name of a linear weight; empty where there are no groups."""

    model: ModelSource
    config: QuantizationConfig
    group_sizes: dict[str, int]

    @classmethod
    def plan(cls, model: ModelSource, config: QuantizationConfig) -> Self:
        """Fails before any work is done where a shape fits no group size."""
        linears = [name for name in model.names if is_decoder_linear(name)]
        shapes = {name: model.shape(name) for name in linears}
        return cls(
            model, config, fit_group_sizes(shapes, config.group_size) if config.has_groups else {}
        )

    def encode(self, name: str) -> dict[str, Tensor]:
        """Stored tensors by name. Raises ModelSourceError for NaN, infinity and overflow."""
        tensor = self.model.load(name)
        _check_finite(tensor, name)
        if self.config.is_dense:
            return {name: _cast(tensor, getattr(torch, self.config.dense_dtype), name)}
        if name == "lm_head.weight" and self.config.int8_lm_head:
            return {}  # ``encode_int8_head`` does, for tied embeddings too
        if not is_decoder_linear(name):
            return {name: _cast(tensor, self.model.dtype(name), name)}
        stem = name.removesuffix("weight")
        return {stem + suffix: part for suffix, part in self._round(tensor.float(), name).items()}

    def encode_int8_head(self) -> dict[str, Tensor]:
        """An INT8 lm_head; of a model with tied embeddings, made from those."""
        is_tied = "lm_head.weight" not in self.model.names
        name = "model.embed_tokens.weight" if is_tied else "lm_head.weight"
        tensor = self.model.load(name)
        _check_finite(tensor, name)
        return {f"lm_head.{k}": part for k, part in round_to_int8(tensor.float()).tensors().items()}

    def _round(self, weight: Tensor, name: str) -> dict[str, Tensor]:
        if PRECISIONS[self.config.precision].weight_bits == 8:
            return round_to_int8(weight).tensors()
        if self.config.has_groups:
            return round_to_groups(weight, self.group_sizes[name]).tensors()
        return round_to_channels(weight).tensors()


def _check_finite(tensor: Tensor, name: str) -> None:
    if not torch.isfinite(tensor).all():
        raise ModelSourceError(f"tensor {name} holds NaN or infinite values")


def _cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    cast = tensor.to(dtype)
    if not torch.isfinite(cast).all():
        raise ModelSourceError(f"tensor {name} does not fit {dtype}; use bf16 or fp32")
    return cast
