"""Token id -> bytes: what one token adds to a text, before bytes are joined into characters.

Follows the decoder that ``tokenizer.json`` declares. Two families cover the models we serve,
byte-level BPE and SentencePiece with byte fallback; any other decoder is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE_STEPS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


class TokenizerError(ValueError):
    """The tokenizer files are missing, corrupt or of a kind that we do not serve."""


class Pieces(dict[int, bytes]):
    """``pieces[id]`` is a token's bytes, empty for a token in ``skip`` and for an unknown id."""

    def __init__(self, core: tokenizers.Tokenizer, skip: Collection[int] = ()) -> None:
        super().__init__()
        self._core = core
        self._skip = frozenset(skip)
        self._to_bytes, self._to_first_bytes = _converters(_steps(core))

    def __missing__(self, token_id: int) -> bytes:
        piece = b"" if self.is_skipped(token_id) else self._to_bytes(self._token(token_id))
        self[token_id] = piece
        return piece

    def first(self, token_id: int) -> bytes:
        """The bytes of a token that starts a text: SentencePiece drops a leading space there."""
        return self._to_first_bytes(self._token(token_id))

    def is_skipped(self, token_id: int) -> bool:
        return token_id in self._skip or self._core.id_to_token(token_id) is None

    def _token(self, token_id: int) -> str:
        token = self._core.id_to_token(token_id)
        assert token is not None
        return token


Converter = Callable[[str], bytes]


def _steps(core: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if core.decoder is None:
        raise TokenizerError("tokenizer.json declares no decoder, so tokens cannot become text")
    declared = json.loads(core.decoder.__getstate__())
    return declared["decoders"] if declared["type"] == "Sequence" else [declared]


def _converters(steps: list[dict[str, Any]]) -> tuple[Converter, Converter]:
    types = {step["type"] for step in steps}
    if "ByteLevel" in types and types <= {"ByteLevel", "Fuse"}:
        return _from_byte_level, _from_byte_level
    if types <= _SENTENCEPIECE_STEPS:
        return _sentencepiece_converters(steps)
    raise TokenizerError(
        f"tokenizer.json declares the decoder {' + '.join(step['type'] for step in steps)}; "
        "supported are ByteLevel, and Replace or Metaspace with ByteFallback"
    )


def _sentencepiece_converters(steps: list[dict[str, Any]]) -> tuple[Converter, Converter]:
    by_type = {step["type"]: step for step in steps}
    replaced = [
        (step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"
    ]
    metaspace = by_type.get("Metaspace")
    if metaspace:
        replaced.append((metaspace["replacement"], " "))

    def to_bytes(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token) if "ByteFallback" in by_type else None
        if byte:
            return bytes.fromhex(byte[1])
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode()

    def to_first_bytes(token: str) -> bytes:
        if metaspace and metaspace["prepend_scheme"] != "never":
            return to_bytes(token.replace(metaspace["replacement"], ""))
        return to_bytes(token).removeprefix(b" " if by_type.get("Strip", {}).get("start") else b"")

    return to_bytes, to_first_bytes


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 stands for itself, the other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF_CHAR = _byte_alphabet()


def _from_byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF_CHAR[char] for char in token])
    except KeyError:  # an added token is plain text, not spelled in the alphabet
        return token.encode()
