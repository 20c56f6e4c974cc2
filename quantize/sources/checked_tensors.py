"""Tensors of a quantized folder, checked as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from qoq.kernels.packing import unpack_codes
from qoq.quantize.errors import ModelSourceError

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class TensorFolder(Protocol):
    """A folder's tensors by name, as they are stored."""

    @property
    def path(self) -> Path: ...

    @property
    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype_code(self, name: str) -> str:
        """``F16``, ``BF16``, ``I32`` and so on."""
        ...

    def load(self, name: str) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class CheckedTensors:
    """All methods raise ModelSourceError, naming the tensor."""

    folder: TensorFolder

    def __contains__(self, name: str) -> bool:
        return name in self.folder.names

    def shape(self, name: str) -> tuple[int, int]:
        """Of a matrix."""
        self._check_present(name)
        shape = self.folder.shape(name)
        if len(shape) != 2:
            raise self.error(name, f"is {list(shape)}, expected a matrix")
        return shape[0], shape[1]

    def load(self, name: str, *shape: int, dtypes: tuple[torch.dtype, ...]) -> Tensor:
        self._check_present(name)
        tensor = self.folder.load(name)
        if tensor.shape != shape:
            raise self.error(name, f"is {list(tensor.shape)}, expected {list(shape)}")
        if tensor.dtype not in dtypes:
            expected = " or ".join(str(dtype) for dtype in dtypes)
            raise self.error(name, f"is {tensor.dtype}, expected {expected}")
        return tensor

    def nibbles(self, name: str, *shape: int, transposed: bool = False) -> Tensor:
        """int32 words as eight codes each, the lowest bits first: uint8 [A, 8 B] of [A, B],
        ``transposed`` first if asked for."""
        words = self.load(name, *shape, dtypes=(torch.int32,))
        words = words.t() if transposed else words
        return unpack_codes(words.contiguous().view(torch.uint8))

    def scales(self, name: str, *shape: int) -> Tensor:
        """float32, finite and not negative."""
        scales = self.load(name, *shape, dtypes=FLOATS).float()
        if not torch.isfinite(scales).all():
            raise self.error(name, "holds NaN or infinite values")
        if (scales < 0).any():
            raise self.error(name, "holds negative scales")
        return scales

    def _check_present(self, name: str) -> None:
        if name not in self:
            raise self.error(name, "is missing")

    def error(self, name: str, problem: str) -> ModelSourceError:
        return ModelSourceError(
            f"{self.folder.path}: tensor {name} {problem}; download the model again"
        )
