"""One decoder layer in floating point: what transforms change, and calibration runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qoq.engine.models.config import ModelConfig
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.model_source import ModelSource


@dataclass(slots=True)
class LayerWeights:
    """``tensors`` fp32 by name within the layer: ``self_attn.q_proj.weight`` ``[N, K]``,
    ``self_attn.q_proj.bias`` ``[N]``, ``input_layernorm.weight`` ``[hidden]`` and so on.

    Transforms replace entries; products of rotations are made in fp64 and stored in fp32.
    """

    config: ModelConfig
    index: int
    tensors: dict[str, Tensor]

    @property
    def prefix(self) -> str:
        """What a checkpoint puts before the names."""
        return f"model.layers.{self.index}."

    @classmethod
    def load(cls, model: ModelSource, config: ModelConfig, index: int) -> Self:
        """Read a layer. Raises ModelSourceError for NaN and infinity."""
        prefix = f"model.layers.{index}."
        names = [name for name in model.names if name.startswith(prefix)]
        tensors = {name.removeprefix(prefix): model.load(name).float() for name in names}
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ModelSourceError(f"tensor {prefix}{name} holds NaN or infinite values")
        return cls(config, index, tensors)
