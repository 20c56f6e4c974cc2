"""A tiny model that reads bytes and has a chat template, as a folder like any other."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ...engine.tiny_model import write_tiny_model

BOS, EOS = 256, 257
VOCAB_SIZE = 258
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}{{ '\\n' }}"


def write_tiny_chat(path: Path, **overrides: object) -> Path:
    folder = write_tiny_model(path, vocab_size=VOCAB_SIZE, **overrides)
    write_byte_tokenizer(folder)
    return folder


def write_byte_tokenizer(folder: Path) -> None:
    """Token ``b`` is byte ``b``, as far as it is ASCII; no special token is added to a text."""
    alphabet = _byte_tokens()
    core = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<s>", "</s>"])
    core.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _byte_tokens() -> list[str]:
    """The characters that ByteLevel writes for bytes 0 to 255, in order of the bytes."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]
