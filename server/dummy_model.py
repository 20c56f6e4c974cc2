"""A model of random weights as a folder that can be served: to measure the whole way over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from qoq.engine.dummy_checkpoint import read_shape, shape_folder
from qoq.engine.models.config import parse_model_config


@contextmanager
def dummy_model(model: Path, max_model_len: int | None) -> Iterator[Path]:
    """``model``'s config, with ``max_model_len`` positions where it has fewer, and its tokenizer.

    A shape that has none gets one made up. Raises ValueError where there is no such shape, or it is
    not one that the engine runs.
    """
    shape = read_shape(model)
    config = parse_model_config(shape)
    num_positions = max(config.max_position_embeddings, max_model_len or 0)
    with shape_folder(model.resolve().name, shape, num_positions) as folder:
        if (model / "tokenizer.json").is_file():
            _copy_tokenizer(model, folder)
        else:
            dummy_tokenizer(config.vocab_size).save(str(folder / "tokenizer.json"))
        yield folder


def dummy_tokenizer(vocab_size: int) -> Tokenizer:
    """A token for each byte as far as they go, then numbers as words, which text never becomes."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    words += [f"Ġ{token_id}" for token_id in range(len(words), vocab_size)]
    vocabulary = {word: token_id for token_id, word in enumerate(words[:vocab_size])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            shutil.copy(file, folder)
