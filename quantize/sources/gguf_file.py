"""A GGUF file, memory-mapped: its metadata and its tensors, dequantized one at a time.

Knows nothing of models; names stay llama.cpp's. Parts of a split file are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Quant
from numpy.typing import NDArray
from torch import Tensor

from qoq.quantize.errors import ModelSourceError

PLAIN_QUANTS = (Quant.F32, Quant.F16, Quant.BF16)
BLOCK_QUANTS = (Quant.Q4_0, Quant.Q4_1, Quant.Q5_0, Quant.Q5_1, Quant.Q8_0)
SUPER_BLOCK_QUANTS = (Quant.Q2_K, Quant.Q3_K, Quant.Q4_K, Quant.Q5_K, Quant.Q6_K)
SUPPORTED_QUANTS = (*PLAIN_QUANTS, *BLOCK_QUANTS, *SUPER_BLOCK_QUANTS)


class _PlainReader(gguf.GGUFReader):
    """Slices the map as a plain array: parsing 49k tokens takes 0.7 s instead of 2.3 s."""

    @property  # type: ignore[override]
    def data(self) -> NDArray[np.uint8]:
        return self._plain

    @data.setter
    def data(self, mapped: NDArray[np.uint8]) -> None:
        self._plain = np.asarray(mapped).view(np.ndarray)


class GGUFFile:
    """``names`` in file order; ``metadata(key)``; ``load(name)``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = _PlainReader(path)
        except OSError as error:
            raise ModelSourceError(f"{path} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # the reader trips over bad bytes in many ways
            raise ModelSourceError(
                f"{path} is not a whole GGUF file ({error}); download it again"
            ) from error
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        if self.metadata("split.count", 0) > 1:
            raise ModelSourceError(f"{path} is one part of a split GGUF; merge the parts first")

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def metadata(self, key: str, default: Any = None) -> Any:
        """A scalar, string or list; ``default`` where the key is missing."""
        field = self._fields.get(key)
        if field is None:
            return default
        value = field.contents()
        if field.types == [gguf.GGUFValueType.FLOAT32]:
            return float(str(np.float32(value)))  # 1e-05, not 9.999999747378752e-06
        return value

    def require(self, key: str) -> Any:
        value = self.metadata(key)
        if value is None:
            raise ModelSourceError(f"{self.path} has no metadata {key!r}; convert the model again")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Logical shape, outermost first."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> torch.dtype:
        """What ``load`` returns.

        Block formats multiply a float16 scale by small integers: float16 keeps such a product to
        11 bits where bfloat16 keeps 8.
        """
        plain = {Quant.F32: torch.float32, Quant.BF16: torch.bfloat16}
        return plain.get(self._tensors[name].tensor_type, torch.float16)

    def load(self, name: str) -> Tensor:
        """Dequantize one tensor to float32."""
        tensor = self._tensors[name]
        if tensor.tensor_type not in SUPPORTED_QUANTS:
            raise ModelSourceError(
                f"{self.path}: tensor {name} is {tensor.tensor_type.name}; supported are "
                + ", ".join(quant.name for quant in SUPPORTED_QUANTS)
            )
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(values if values.flags.writeable else values.copy())
