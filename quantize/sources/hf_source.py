"""A Hugging Face folder as a model source: ``config.json``, safetensors, tokenizer files."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qoq.quantize.errors import ModelSourceError

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
    """See ``ModelSource``. Tensors keep their dtype."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if self.config.get("quantization_config"):
            method = self.config["quantization_config"].get("quant_method")
            raise ModelSourceError(
                f"{path} is already quantized by {method!r}; give the 16-bit model instead"
            )

    @property
    def names(self) -> list[str]:
        return [name for name in self._files if not self._is_redundant(name)]

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    @property
    def generation_config(self) -> dict[str, Any]:
        path = self.path / "generation_config.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Where each tensor is. Opened after the config was judged: that says more."""
        return {name: file for file in self._weight_files() for name in self._keys(file)}

    def shape(self, name: str) -> tuple[int, ...]:
        with _open(self._files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        with _open(self._files[name]) as file:
            code: str = file.get_slice(name).get_dtype()
        if code not in DTYPES:
            raise ModelSourceError(
                f"{self.path}: tensor {name} is {code}; give a model in fp32, bf16 or fp16"
            )
        return DTYPES[code]

    def load(self, name: str) -> Tensor:
        self.dtype(name)
        with _open(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

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

    def _keys(self, path: Path) -> Iterator[str]:
        with _open(path) as file:
            yield from file.keys()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a missing or broken file is a ModelSourceError that names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSourceError(f"{path.parent} has no {path.name}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelSourceError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelSourceError(f"{path} is not a JSON object")
    return value


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelSourceError(
            f"{path} is not a whole safetensors file ({error}); download it again"
        ) from error
