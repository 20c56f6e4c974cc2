"""A tiny random model with a tokenizer of single bytes, so that what it says is text."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from .tiny_model import write_tiny_model

BOS, EOS = 256, 257


def write_talking_model(path: Path) -> Path:
    """The model has 14 more rows of logits than the tokenizer has tokens."""
    write_tiny_model(
        path, vocab_size=272, max_position_embeddings=2048, bos_token_id=BOS, eos_token_id=EOS
    )
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Token id = byte; then BOS and EOS, which are special."""
    core = tokenizers.Tokenizer(models.BPE(vocab=_alphabet(), merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in ("<bos>", "<eos>")])
    return core


def text_of(token_ids: list[int]) -> str:
    return bytes(token for token in token_ids if token < BOS).decode()


def _alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
