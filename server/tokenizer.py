"""Text <-> token ids by the files of a checkpoint folder, and what they say of special tokens.

``tokenizer.json`` is required. ``tokenizer_config.json``, ``generation_config.json`` and
``chat_template.jinja`` are read where they exist.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from qoq.server.detokenizer import Detokenizer
from qoq.server.pieces import Pieces, TokenizerError

__all__ = ["Tokenizer", "TokenizerError"]

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """``named_tokens``: text by ``bos_token`` and the like. ``add_bos`` None: as tokenizer.json."""

    named_tokens: dict[str, str] = field(default_factory=dict)
    add_bos: bool | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None


class Tokenizer:
    """``pieces`` is for a Detokenizer, which decodes tokens as they come; special ones are no text.

    ``all_pieces`` holds those too.
    """

    def __init__(self, core: tokenizers.Tokenizer, settings: _Settings | None = None) -> None:
        self._core = core
        self._settings = settings or _Settings()
        self.special_ids = {
            token.content: token_id
            for token_id, token in core.get_added_tokens_decoder().items()
            if token.special
        }
        self.special_token_ids = frozenset(self.special_ids.values())
        self.pieces = Pieces(core, skip=self.special_token_ids)
        self.all_pieces = Pieces(core)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Raises TokenizerError, which names the file and what is wrong with it."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{folder} has no tokenizer.json")
        try:
            core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{path} is not a tokenizer: {error}") from error
        return cls(core, _read_settings(folder))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """With special tokens there is never a second BOS, also where ``text`` begins with one."""
        # Unlike `encode`, the batch call lets other threads run meanwhile.
        encoding = self._core.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        return self._with_one_bos(text, encoding.ids) if add_special_tokens else encoding.ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        detokenizer = Detokenizer(self.pieces if skip_special_tokens else self.all_pieces)
        return detokenizer.add(token_ids) + detokenizer.finish()

    def pieces_with(self, texts: Collection[str]) -> Pieces:
        """``pieces`` in which these are text, also where they are special tokens."""
        shown = {self.special_ids[text] for text in texts if text in self.special_ids}
        return Pieces(self._core, skip=self.special_token_ids - shown) if shown else self.pieces

    def to_json(self) -> str:
        """The content of a ``tokenizer.json``."""
        return self._core.to_str()

    @property
    def named_tokens(self) -> dict[str, str]:
        """``bos_token``, ``eos_token`` and the like, as chat templates know them."""
        return self._settings.named_tokens

    @property
    def chat_template(self) -> str | None:
        return self._settings.chat_template

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        eos = self._id_of("eos_token")
        return self._settings.eos_token_ids or (() if eos is None else (eos,))

    def _id_of(self, name: str) -> int | None:
        return self._core.token_to_id(self.named_tokens.get(name, ""))

    def _with_one_bos(self, text: str, token_ids: list[int]) -> list[int]:
        bos = self.bos_token_id
        if bos is None:
            return token_ids
        num_bos = next((i for i, token in enumerate(token_ids) if token != bos), len(token_ids))
        is_wanted = num_bos > 0 if self._settings.add_bos is None else self._settings.add_bos
        is_wanted = is_wanted or text.startswith(self.named_tokens["bos_token"])
        return [bos] * is_wanted + token_ids[num_bos:]


def _read_settings(folder: Path) -> _Settings:
    config = _read_json(folder / "tokenizer_config.json")
    eos = _read_json(folder / "generation_config.json").get("eos_token_id")
    return _Settings(
        named_tokens={
            name: token for name in _NAMED_TOKENS if (token := _content(config.get(name)))
        },
        add_bos=config.get("add_bos_token"),
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        chat_template=_read_chat_template(folder, config),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds no JSON object")
    return content


def _content(token: str | dict[str, Any] | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read_chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    declared = config.get("chat_template")
    if not isinstance(declared, list):
        return declared
    named = {entry["name"]: entry["template"] for entry in declared}
    return named.get("default")
