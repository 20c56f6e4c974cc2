"""The tensors of a model folder by name, as they are stored: safetensors, whole or in shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.json_file import read_json


class SafetensorsFolder:
    """Opened when first asked for a tensor: what the folder's config says is judged before that."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        with _open(self._files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def dtype_code(self, name: str) -> str:
        """``F16``, ``BF16``, ``I32`` and so on."""
        with _open(self._files[name]) as file:
            code: str = file.get_slice(name).get_dtype()
        return code

    def load(self, name: str) -> Tensor:
        with _open(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Where each tensor is."""
        return {name: file for file in self._weight_files() for name in _keys(file)}

    def _weight_files(self) -> list[Path]:
        index = self.path / "model.safetensors.index.json"
        if index.exists():
            files = sorted({self.path / name for name in read_json(index)["weight_map"].values()})
        elif (self.path / "model.safetensors").exists():
            files = [self.path / "model.safetensors"]  # a consolidated copy may lie beside it
        else:
            files = sorted(self.path.glob("*.safetensors"))
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise ModelSourceError(f"{self.path} lacks {missing[0]}; download the model again")
        if not files:
            raise ModelSourceError(self._no_weights())
        return files

    def _no_weights(self) -> str:
        if any(self.path.glob("*.bin")):
            return (
                f"{self.path} has its weights in .bin files, which may run code when they are "
                "read; save the model as safetensors first"
            )
        return f"{self.path} has no *.safetensors files"


def _keys(path: Path) -> Iterator[str]:
    with _open(path) as file:
        yield from file.keys()


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelSourceError(
            f"{path} is not a whole safetensors file ({error}); download it again"
        ) from error
