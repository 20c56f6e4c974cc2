"""Where a model comes from: a Hugging Face folder, in 16 bits or with codes, or a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.quantize.errors import ModelSourceError

LINEAR_PARTS = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
NORM_PARTS = ("input_layernorm", "post_attention_layernorm")


class ModelSource(Protocol):
    """Tensors under Hugging Face names, read one at a time from a memory-mapped file."""

    @property
    def names(self) -> list[str]: ...

    @property
    def config(self) -> dict[str, Any]:
        """The fields of ``config.json``."""
        ...

    @property
    def generation_config(self) -> dict[str, Any]:
        """The fields of ``generation_config.json``; empty where the source has none."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """What the tensor should stay in where it is not quantized."""
        ...

    def load(self, name: str) -> Tensor:
        """One tensor, in its own or in a wider float type. Raises ModelSourceError."""
        ...

    def write_tokenizer(self, folder: Path) -> None: ...


def open_source(path: Path) -> ModelSource:
    """Open a Hugging Face folder or a GGUF file and check that the engine can run the model."""
    if not path.exists():
        raise ModelSourceError(f"{path} does not exist")
    source = _open(path)
    config = read_model_config(path, source.config)
    present = set(source.names)
    missing = [name for name in _expected_names(config) if name not in present]
    if missing:
        raise ModelSourceError(
            f"{path} lacks tensor {missing[0]} ({len(missing)} missing); download the model again"
        )
    return source


def read_model_config(path: Path, fields: Mapping[str, Any]) -> ModelConfig:
    """Raises ModelSourceError for a model that the engine cannot run."""
    try:
        return parse_model_config(fields)
    except ValueError as error:
        raise ModelSourceError(f"{path}: {error}") from error


def is_decoder_linear(name: str) -> bool:
    """Whether ``name`` is the weight of a linear layer that gets quantized."""
    match = re.fullmatch(r"model\.layers\.\d+\.(\w+\.\w+)\.weight", name)
    return match is not None and match[1] in LINEAR_PARTS


def by_layer(names: Iterable[str]) -> Iterator[list[str]]:
    """Group names: the embedding, each decoder layer in order, whatever follows them."""
    ordered = sorted(names, key=_position)
    return (list(group) for _, group in groupby(ordered, key=lambda name: _position(name)[:2]))


def _open(path: Path) -> ModelSource:
    # Imported here: each reader loads a library that the other does not need.
    if path.is_dir():
        from qoq.quantize.sources.quantized_source import open_folder

        return open_folder(path)
    from qoq.quantize.sources.gguf_source import GGUFSource

    return GGUFSource(path)


def _position(name: str) -> tuple[int, int, str]:
    match = re.match(r"model\.layers\.(\d+)\.", name)
    if match:
        return 1, int(match[1]), name
    return (0 if name.startswith("model.embed_tokens") else 2), 0, name


def _expected_names(config: ModelConfig) -> Iterator[str]:
    yield "model.embed_tokens.weight"
    yield "model.norm.weight"
    if not config.tie_word_embeddings:
        yield "lm_head.weight"
    for layer in range(config.num_layers):
        for part in (*LINEAR_PARTS, *NORM_PARTS):
            yield f"model.layers.{layer}.{part}.weight"
