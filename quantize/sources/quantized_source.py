"""A folder that another quantizer wrote: a model source whose linear layers have codes already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.awq_layout import AwqLayout
from qoq.quantize.sources.checked_tensors import CheckedTensors, TensorFolder
from qoq.quantize.sources.compressed_tensors_layout import CompressedTensorsLayout
from qoq.quantize.sources.gptq_layout import GptqLayout
from qoq.quantize.sources.hf_source import HFSource
from qoq.quantize.sources.json_file import read_json
from qoq.quantize.sources.linear_shapes import linear_shapes
from qoq.quantize.sources.model_source import read_model_config
from qoq.quantize.sources.pickled_folder import PickledFolder
from qoq.quantize.sources.qserve_layout import QServeLayout
from qoq.quantize.sources.quantized_layout import QuantizedLayout, QuantizedWeight
from qoq.quantize.sources.safetensors_folder import SafetensorsFolder

Open = Callable[[CheckedTensors, Mapping[str, Any]], QuantizedLayout]
METHODS: dict[str, Open] = {
    "awq": AwqLayout.open,
    "gptq": GptqLayout.open,
    "compressed-tensors": CompressedTensorsLayout.open,
}
# Where AutoGPTQ and AutoAWQ wrote what is in config.json today.
CONFIG_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


class QuantizedSource:
    """See ``ModelSource``. A quantized layer is its ``weight``, which ``load`` dequantizes."""

    def __init__(self, folder: HFSource, method: str, layout: QuantizedLayout) -> None:
        self.method = method
        self._folder = folder
        self._layout = layout

    @property
    def group_size(self) -> int:
        """128, 64, 32, or -1 for one scale a channel."""
        return self._layout.group_size

    @property
    def names(self) -> list[str]:
        return list(self._names())

    @property
    def config(self) -> dict[str, Any]:
        config = dict(self._folder.config)
        config.pop("quantization_config", None)
        return config

    @property
    def generation_config(self) -> dict[str, Any]:
        return self._folder.generation_config

    def quantized_weight(self, name: str) -> QuantizedWeight | None:
        """What is stored for a linear layer's weight; None for what is stored in 16 or 32 bits."""
        stem = name.removesuffix(".weight")
        if stem not in self._stems:
            return None
        if stem not in self._shapes:
            raise ModelSourceError(f"{self._folder.path}: {stem} is no linear layer of the model")
        return self._layout.read(stem, *self._shapes[stem])

    def shape(self, name: str) -> tuple[int, ...]:
        stem = name.removesuffix(".weight")
        return self._shapes[stem] if stem in self._stems else self._folder.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        stem = name.removesuffix(".weight")
        return torch.float16 if stem in self._stems else self._folder.dtype(name)

    def load(self, name: str) -> Tensor:
        weight = self.quantized_weight(name)
        return self._folder.load(name) if weight is None else weight.dequantize()

    def write_tokenizer(self, folder: Path) -> None:
        self._folder.write_tokenizer(folder)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        return linear_shapes(read_model_config(self._folder.path, self.config))

    @cached_property
    def _stems(self) -> set[str]:
        """Of quantized layers."""
        codes = f".{self._layout.codes_suffix}"
        names = self._folder.tensors.names
        return {name.removesuffix(codes) for name in names if name.endswith(codes)}

    def _names(self) -> Iterator[str]:
        for name in self._folder.names:
            stem, _, suffix = name.rpartition(".")
            if suffix == self._layout.codes_suffix:
                yield f"{stem}.weight"
            elif suffix not in self._layout.suffixes:
                yield name


def open_folder(path: Path) -> HFSource | QuantizedSource:
    """A Hugging Face folder, in 16 bits or with the codes of another quantizer.

    Raises ModelSourceError where these cannot be imported, with the reason.
    """
    folder = HFSource(path, _tensor_folder(path))
    read_model_config(path, folder.config)  # says more about another model than its tensors do
    tensors = CheckedTensors(folder.tensors)
    entry = _quantization_entry(folder)
    if entry is not None:
        method = str(entry.get("quant_method"))
        if method not in METHODS:
            raise ModelSourceError(
                f"{path} is already quantized by {method!r}, and what can be imported is qserve, "
                f"{', '.join(METHODS)}; give the 16-bit model instead"
            )
        return QuantizedSource(folder, method, METHODS[method](tensors, entry))
    if QServeLayout.matches(folder.tensors.names):
        # The config is a copy of the 16-bit model's, whose head may have been tied.
        folder.config["tie_word_embeddings"] = "lm_head.weight" not in tensors
        return QuantizedSource(folder, "qserve", QServeLayout.open(tensors))
    return folder


def _tensor_folder(path: Path) -> TensorFolder:
    """QServe's converter writes .bin files; those of other models stay refused."""
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        pickled = PickledFolder(path)
        if QServeLayout.matches(pickled.names):
            return pickled
    return SafetensorsFolder(path)


def _quantization_entry(folder: HFSource) -> Mapping[str, Any] | None:
    """``quantization_config`` of config.json, or the file that quantizers wrote before that."""
    entry: Mapping[str, Any] | None = folder.config.get("quantization_config")
    if entry:
        return entry
    for name, method in CONFIG_FILES.items():
        if (folder.path / name).exists():
            return {"quant_method": method, **read_json(folder.path / name)}
    return None
