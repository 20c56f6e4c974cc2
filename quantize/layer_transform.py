"""The exact changes of a recipe to one layer, in the paper's order (QoQ, arXiv 2405.04532)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor

from qoq.engine.models.config import ModelConfig
from qoq.quantize.calibration.layer_forward import LayerTrace
from qoq.quantize.calibration.statistics import Samples
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.recipe import Recipe
from qoq.quantize.transforms.attention_smoothing import smooth_attention
from qoq.quantize.transforms.channel_order import reorder_channels
from qoq.quantize.transforms.head_rotation import rotate_heads
from qoq.quantize.transforms.key_alignment import align_keys
from qoq.quantize.transforms.norm_folding import fold_norms
from qoq.quantize.transforms.output_smoothing import smooth_outputs
from qoq.quantize.transforms.rotation import Rotation, rotate_layer

Part = Literal["o_proj", "down_proj"]
PARTS: tuple[Part, ...] = ("o_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LayerTransform:
    """Called with the samples as they reach the layer; None where the recipe needs none."""

    recipe: Recipe
    rotation: Rotation | None

    @classmethod
    def of(cls, recipe: Recipe, config: ModelConfig) -> Self:
        return cls(recipe, Rotation.for_size(config.hidden_size) if recipe.rotate else None)

    def __call__(self, layer: LayerWeights, samples: Samples | None) -> None:
        """Changes ``layer`` in place."""
        if self.recipe.fold_norms:
            fold_norms(layer)
        if self.rotation is not None:
            rotate_layer(layer, self.rotation)
        if self.recipe.rotate_heads:
            rotate_heads(layer)
        if samples is not None:
            self._align_and_smooth_outputs(layer, samples.trace(layer))
            self._smooth_attention_and_reorder(layer, samples.trace(layer))

    def _align_and_smooth_outputs(self, layer: LayerWeights, trace: LayerTrace) -> None:
        if self.recipe.align_keys:
            align_keys(layer, trace.keys.mean(dim=0))
        if self.recipe.smooth_outputs is not None:
            for part in PARTS:
                largest = _input(trace, part).abs().amax(dim=0)
                smooth_outputs(layer, part, largest, self.recipe.smooth_outputs)

    def _smooth_attention_and_reorder(self, layer: LayerWeights, trace: LayerTrace) -> None:
        """Both look at what the changes before them left."""
        if self.recipe.smooth_attention is not None:
            smooth_attention(layer, trace.keys.abs().amax(dim=0), self.recipe.smooth_attention)
        if self.recipe.reorder:
            for part in PARTS:
                reorder_channels(layer, part, _input(trace, part).abs().amax(dim=0))


def _input(trace: LayerTrace, part: Part) -> Tensor:
    return trace.o_input if part == "o_proj" else trace.down_input
