"""The tensors of a checkpoint, in the order of the residual stream: embedding, layers, lm_head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from qoq.quantize.calibration.token_windows import TokenWindows
from qoq.quantize.checkpoint import CheckpointWriter
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.layer_quantizer import LayerQuantizer, QuantizedLayer
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.quantization_config import QuantizationConfig
from qoq.quantize.recipe import Recipe
from qoq.quantize.sources.model_source import ModelSource
from qoq.quantize.stream_ends import EMBEDDING, FINAL_NORM, HEAD, StreamEnds
from qoq.quantize.weights.int8_weight import round_to_int8


@dataclass(frozen=True, slots=True)
class StoredModel:
    """``model`` as ``config`` stores it, each layer by ``quantizer``."""

    model: ModelSource
    config: QuantizationConfig
    recipe: Recipe
    quantizer: LayerQuantizer

    def write(
        self, writer: CheckpointWriter, windows: TokenWindows | None, progress: bool
    ) -> dict[str, dict[str, float]]:
        """Returns the relative error of each linear layer. ``windows`` are calibrated on.

        Raises ModelSourceError for NaN, infinity and overflow.
        """
        errors: dict[str, dict[str, float]] = {}
        hidden = self._write_embedding(writer, windows)
        layers = range(self.quantizer.config.num_layers)
        desc = f"quantizing to {self.config.label}"
        for index in tqdm(layers, desc=desc, unit="layer", disable=not progress):
            layer = LayerWeights.load(self.model, self.quantizer.config, index)
            result = self.quantizer(layer, hidden)
            self._write_layer(writer, layer, result)
            for name, error in result.errors.items():
                errors[layer.prefix + name.removesuffix(".weight")] = {"relative_error": error}
            hidden = result.output
        self._write_head(writer)
        writer.finish()
        return errors

    @property
    def _ends(self) -> StreamEnds:
        return StreamEnds(self.model, self.recipe)

    def _write_embedding(
        self, writer: CheckpointWriter, windows: TokenWindows | None
    ) -> Tensor | None:
        """The hidden states that enter the first layer."""
        embedding = self._ends.embedding()
        writer.add({EMBEDDING: self._cast(EMBEDDING, embedding)})
        writer.end_layer()
        return None if windows is None else embedding[windows.ids]

    def _write_layer(
        self, writer: CheckpointWriter, layer: LayerWeights, result: QuantizedLayer
    ) -> None:
        for name, tensor in layer.tensors.items():
            if name not in result.weights:
                writer.add({layer.prefix + name: self._cast(layer.prefix + name, tensor)})
        for name, weight in result.weights.items():
            stem = layer.prefix + name.removesuffix("weight")
            writer.add({stem + suffix: part for suffix, part in weight.tensors().items()})
        writer.end_layer()

    def _write_head(self, writer: CheckpointWriter) -> None:
        writer.add({FINAL_NORM: self._cast(FINAL_NORM, self._ends.final_gain())})
        if self.config.int8_lm_head:
            head = round_to_int8(self._ends.head())
            writer.add({f"lm_head.{suffix}": part for suffix, part in head.tensors().items()})
        elif self._ends.has_own_head:
            writer.add({HEAD: self._cast(HEAD, self._ends.head())})
        writer.end_layer()

    def _cast(self, name: str, tensor: Tensor) -> Tensor:
        """To the type that ``tensor`` is stored in where it is not quantized."""
        dtype = self._dtype(name)
        cast = tensor.to(dtype)
        if not torch.isfinite(cast).all():
            raise ModelSourceError(f"tensor {name} does not fit {dtype}; use bf16 or fp32")
        return cast

    def _dtype(self, name: str) -> torch.dtype:
        if self.config.is_dense:
            dtype: torch.dtype = getattr(torch, self.config.dense_dtype)
            return dtype
        is_untied = name == HEAD and HEAD not in self.model.names
        return self.model.dtype(EMBEDDING if is_untied else name)
