"""A checkpoint folder, read lazily: config.json, the quantization it declares, tensors by name."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qoq.engine.precision import PRECISIONS, Precision, parse_precision, stored_precision

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message says which file and what to change."""


class TensorSource(Protocol):
    """Where a decoder's tensors come from. ``folder`` names it in messages."""

    @property
    def folder(self) -> Path: ...

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Checked: -1 in ``shape`` and a ``dtype`` of None accept any. Raises CheckpointError."""


class Checkpoint:
    """Tensors of the ``*.safetensors`` files of ``folder``, memory-mapped.

    Raises:
        CheckpointError: the folder, its config or its tensors are missing or unreadable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such checkpoint folder")
        self.config = read_json(folder / "config.json")
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)
        if not self._files:
            raise CheckpointError(f"{folder}: holds no .safetensors file; is it a model folder?")

    @cached_property
    def precision(self) -> Precision:
        """The precision the checkpoint was made for; for a 16- or 32-bit one, its dtype."""
        quantization = self.config.get("quantization_config")
        if quantization is None:
            name = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
            dense = {p.dtype: p for p in PRECISIONS.values() if not p.is_quantized}
            if name not in dense:
                raise CheckpointError(f"{self.folder}: dtype {name!r} is not supported")
            return dense[name]
        method, version = quantization.get("quant_method"), quantization.get("format_version")
        if method != "qoq" or version != FORMAT_VERSION:
            raise CheckpointError(
                f"{self.folder}: quant_method {method!r}, format {version!r} is not "
                f"qoq format {FORMAT_VERSION}; quantize the 16-bit model with `qoq quantize`"
            )
        try:
            return parse_precision(quantization.get("precision", ""))
        except ValueError as error:
            raise CheckpointError(f"{self.folder}: quantization_config: {error}") from None

    def precision_for(self, name: str | None) -> Precision:
        """The precision ``name``, if these weights can run in it; None is their own.

        Dense weights run in any dense precision, quantized ones with activations and cache of any
        number of bits. Raises CheckpointError, ValueError for a name that is unknown.
        """
        own = self.precision
        wanted = own if name is None else parse_precision(name)
        if wanted.weight_bits != own.weight_bits:
            raise CheckpointError(
                f"{self.folder}: holds {own.name} weights, not {wanted.name}; leave out "
                "--precision, or quantize the original model with "
                f"--precision {stored_precision(wanted.name)}"
            )
        return wanted

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor ``name``, checked: -1 in ``shape`` and a ``dtype`` of None accept any."""
        if name not in self._files:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        try:
            tensor = self._read(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.folder}: tensor {name} is unreadable: {error}") from None
        sizes_match = len(shape) == tensor.dim() and all(
            want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not sizes_match:
            raise CheckpointError(
                f"{self.folder}: tensor {name} is {list(tensor.shape)}, expected {list(shape)}"
            )
        if dtype is not None and tensor.dtype != dtype:
            raise CheckpointError(
                f"{self.folder}: tensor {name} is {tensor.dtype}, expected {dtype}"
            )
        return tensor

    def _read(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def _open(self, path: Path) -> None:
        try:
            handle = safe_open(path, framework="pt")
            self._files.update(dict.fromkeys(handle.keys(), handle))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: not a readable safetensors file ({error}); make the checkpoint again"
            ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError for a missing file or one that is not a JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; is this a model folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content
