"""One decoder layer through a recipe: transformed in the paper's order, then rounded.

The order is that of QoQ (arXiv 2405.04532, section 4.3); what comes later sees what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from qoq.engine.models.config import ModelConfig
from qoq.engine.precision import Precision
from qoq.quantize.calibration.statistics import INPUTS, Samples
from qoq.quantize.clipping import ClippedRounding
from qoq.quantize.gptq import GptqRounding
from qoq.quantize.hessian import Hessian
from qoq.quantize.layer_transform import LayerTransform
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.recipe import Recipe
from qoq.quantize.rounding import StoredWeight, relative_error, round_weight


class QuantizedLayer(NamedTuple):
    """``weights`` and ``errors`` by name within the layer, ``self_attn.q_proj.weight``; both empty
    for a dense precision. ``errors`` are relative to the norm of what was rounded. ``output`` fp32
    [S, T, hidden] is what the next layer reads, None without calibration.
    """

    weights: dict[str, StoredWeight]
    errors: dict[str, float]
    output: Tensor | None


class LayerQuantizer:
    """Made once a model. ``group_sizes`` by name within a layer; a weight that has none gets one
    scale a channel.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        precision: Precision,
        group_sizes: Mapping[str, int],
    ) -> None:
        self.config = config
        self._recipe = recipe
        self._precision = precision
        self._group_sizes = group_sizes
        self._transform = LayerTransform.of(recipe, config)

    def __call__(self, layer: LayerWeights, hidden: Tensor | None) -> QuantizedLayer:
        """Transforms ``layer`` in place. ``hidden`` fp32 [S, T, hidden] are calibration inputs."""
        samples = None if hidden is None else Samples.of(self.config, self._precision, hidden)
        self._transform(layer, samples)
        if not self._precision.is_quantized:
            return QuantizedLayer({}, {}, None if samples is None else samples.output(layer))
        return self._nearest(layer) if samples is None else self._calibrated(layer, samples)

    def _nearest(self, layer: LayerWeights) -> QuantizedLayer:
        weights = self._round(layer, {})
        errors = {name: relative_error(weights[name], layer.tensors[name]) for name in weights}
        return QuantizedLayer(weights, errors, None)

    def _calibrated(self, layer: LayerWeights, samples: Samples) -> QuantizedLayer:
        hessians = {key: Hessian(gram) for key, gram in samples.grams(layer).items()}
        weights = self._round(layer, hessians)
        stored = {name: weight.dequantize() for name, weight in weights.items()}
        errors = {
            name: hessians[INPUTS[name]].relative_error(layer.tensors[name], stored[name])
            for name in stored
        }
        rounded = replace(layer, tensors=layer.tensors | stored)
        return QuantizedLayer(weights, errors, samples.output(rounded))

    def _round(
        self, layer: LayerWeights, hessians: Mapping[str, Hessian]
    ) -> dict[str, StoredWeight]:
        """``hessians`` by field of a trace; without them, to nearest."""
        roundings = {key: self._rounding(hessian) for key, hessian in hessians.items()}

        def round_one(name: str) -> StoredWeight:
            weight, rounding = layer.tensors[name], roundings.get(INPUTS[name])
            group_size = self._group_sizes.get(name, PER_CHANNEL)
            if rounding is None:
                return round_weight(weight, self._precision, group_size)
            if group_size == PER_CHANNEL:
                return rounding.to_channels(weight)
            return rounding.to_groups(weight, group_size)

        with _workers() as workers:
            return dict(zip(INPUTS, workers.map(round_one, INPUTS), strict=True))

    def _rounding(self, hessian: Hessian) -> GptqRounding | ClippedRounding | None:
        """How 4-bit weights are rounded; None is to nearest, as 8-bit weights always are."""
        if self._precision.weight_bits != 4:
            return None
        if self._recipe.gptq:
            return GptqRounding.of(hessian, self._recipe.clip)
        return ClippedRounding.of(hessian) if self._recipe.clip else None


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A thread a tensor instead of torch's threads within each small operation: those wait for
    each other thousands of times, and each wait costs milliseconds on a machine that is busy.
    """
    num_cores = torch.get_num_threads()
    num_workers = min(num_cores, 8)
    try:
        with ThreadPoolExecutor(
            num_workers, initializer=torch.set_num_threads, initargs=(num_cores // num_workers,)
        ) as workers:
            yield workers
    finally:
        torch.set_num_threads(num_cores)  # the workers changed the default of later threads
