"""The tensors of a model folder whose weights are in ``*.bin`` files, as QServe writes them.

torch's restricted unpickler reads them: it builds tensors and runs no code of the file.
"""

from __future__ import annotations

import pickle
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError

CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class PickledFolder:
    """Memory-mapped. Raises ModelSourceError for a file that holds more than tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype_code(self, name: str) -> str:
        dtype = self._tensors[name].dtype
        return CODES.get(dtype, str(dtype))

    def load(self, name: str) -> Tensor:
        return self._tensors[name]

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        files = sorted(self.path.glob("*.bin"))
        return {name: tensor for file in files for name, tensor in _read(file).items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelSourceError(
            f"{path} does not open as a file of tensors alone ({reason}), and a .bin file may run "
            "code otherwise; download it again, or save the model as safetensors"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelSourceError(
            f"{path} holds other things than tensors; save the model as safetensors"
        )
    return content
