"""Reads and writes single quantized layers for the tests of their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from qoq.quantize.sources.quantized_layout import QuantizedWeight
from qoq.quantize.sources.quantized_source import open_folder

from ..quantized_hf import as_tensor


def read_layer(folder: Path, stem: str) -> QuantizedWeight:
    weight = open_folder(folder).quantized_weight(f"{stem}.weight")
    assert weight is not None
    return weight


def write_layer(folder: Path, **parts: np.ndarray) -> None:
    """The layer ``x``, and nothing else of a model."""
    tensors = {f"x.{suffix}": as_tensor(part) for suffix, part in parts.items()}
    save_file(tensors, folder / "model.safetensors")
