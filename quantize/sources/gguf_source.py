"""A GGUF file as a model source: Hugging Face names, row order, config and tokenizer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources import gguf_config
from qoq.quantize.sources.gguf_file import GGUFFile
from qoq.quantize.sources.gguf_names import PERMUTED_ARCHITECTURES, ROPE_FACTORS, hf_name
from qoq.quantize.sources.gguf_tokenizer import write_tokenizer


class GGUFSource:
    """See ``ModelSource``. Loads to float32; embedding and norms to the precision of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GGUFFile(path)
        self._architecture = gguf_config.read_architecture(self._file)
        self._gguf_names = dict(self._rename())

    @property
    def names(self) -> list[str]:
        return list(self._gguf_names)

    @cached_property
    def config(self) -> dict[str, Any]:
        return gguf_config.read_config(self._file)

    @property
    def generation_config(self) -> dict[str, Any]:
        return gguf_config.read_generation_config(self._file)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._gguf_names[name])

    def dtype(self, name: str) -> torch.dtype:
        return self._file.dtype(self._gguf_names[name])

    def load(self, name: str) -> Tensor:
        tensor = self._file.load(self._gguf_names[name])
        if self._architecture in PERMUTED_ARCHITECTURES:
            if ".q_proj." in name:
                return unpermute(tensor, self.config["num_attention_heads"])
            if ".k_proj." in name:
                return unpermute(tensor, self.config["num_key_value_heads"])
        return tensor

    def write_tokenizer(self, folder: Path) -> None:
        write_tokenizer(self._file, folder)

    def _rename(self) -> list[tuple[str, str]]:
        pairs = []
        for gguf_name in self._file.names:
            name = hf_name(gguf_name)
            if name is not None:
                pairs.append((name, gguf_name))
            elif gguf_name != ROPE_FACTORS:
                raise ModelSourceError(
                    f"{self.path}: tensor {gguf_name} belongs to no supported architecture"
                )
        return pairs


def unpermute(tensor: Tensor, num_heads: int) -> Tensor:
    """Undo llama.cpp's reordering of Q and K rows (or biases), [num_heads * head_dim, ...].

    The file holds, in each head, row 0 of the first half, row 0 of the second, row 1 of the
    first, and so on (rotation in adjacent pairs); Hugging Face keeps the halves whole.
    """
    pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
