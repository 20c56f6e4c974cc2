"""A Hugging Face folder as a model source: ``config.json``, safetensors, tokenizer files."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.checked_tensors import TensorFolder
from qoq.quantize.sources.json_file import read_json
from qoq.quantize.sources.safetensors_folder import SafetensorsFolder

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SLOW_TOKENIZER_FILES = ("tokenizer.model", "vocab.json")

logger = logging.getLogger(__name__)


class HFSource:
    """See ``ModelSource``. Tensors keep their dtype; by default they are in safetensors files."""

    def __init__(self, path: Path, tensors: TensorFolder | None = None) -> None:
        self.path = path
        self.config = read_json(path / "config.json")
        self.tensors = tensors or SafetensorsFolder(path)

    @property
    def names(self) -> list[str]:
        return [name for name in self.tensors.names if not self._is_redundant(name)]

    @property
    def generation_config(self) -> dict[str, Any]:
        path = self.path / "generation_config.json"
        return read_json(path) if path.exists() else {}

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        code = self.tensors.dtype_code(name)
        if code not in DTYPES:
            raise ModelSourceError(
                f"{self.path}: tensor {name} is {code}; give a model in fp32, bf16 or fp16"
            )
        return DTYPES[code]

    def load(self, name: str) -> Tensor:
        self.dtype(name)
        return self.tensors.load(name)

    def write_tokenizer(self, folder: Path) -> None:
        for name in TOKENIZER_FILES:
            if (self.path / name).exists():
                shutil.copyfile(self.path / name, folder / name)
        if (folder / "tokenizer.json").exists():
            return
        if any((self.path / name).exists() for name in SLOW_TOKENIZER_FILES):
            self._convert_tokenizer(folder)
        else:
            logger.warning("%s has no tokenizer, so the checkpoint has none either", self.path)

    def _convert_tokenizer(self, folder: Path) -> None:
        from transformers import AutoTokenizer  # seconds to import, and rarely needed

        AutoTokenizer.from_pretrained(self.path).save_pretrained(folder)

    def _is_redundant(self, name: str) -> bool:
        is_tied = self.config.get("tie_word_embeddings", False)
        return name.endswith("rotary_emb.inv_freq") or (is_tied and name == "lm_head.weight")
