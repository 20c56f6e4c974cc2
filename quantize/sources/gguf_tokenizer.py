"""``tokenizer.json`` and ``tokenizer_config.json`` from the tokenizer that a GGUF file carries.

Two kinds: ``gpt2`` (byte-level BPE with merges) and ``llama`` (SentencePiece BPE with scores).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources import pre_tokenizers
from qoq.quantize.sources.gguf_file import GGUFFile

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type
SPACE = "\u2581"  # SentencePiece's visible space


def write_tokenizer(file: GGUFFile, folder: Path) -> None:
    """Write both files into ``folder``."""
    build_tokenizer(file).save(str(folder / "tokenizer.json"))
    config = json.dumps(tokenizer_config(file), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")


def build_tokenizer(file: GGUFFile) -> Tokenizer:
    kind = file.require("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(file)
    elif kind == "llama":
        tokenizer = _sentencepiece(file)
    else:
        raise ModelSourceError(
            f"{file.path}: tokenizer {kind!r} is not supported; supported are gpt2 and llama"
        )
    _add_special_tokens(tokenizer, file)
    _add_bos_and_eos(tokenizer, file)
    return tokenizer


def tokenizer_config(file: GGUFFile) -> dict[str, Any]:
    """What transformers and the chat server read beside ``tokenizer.json``."""
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = file.require("tokenizer.ggml.tokens")
    ids = {role: file.metadata(f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos(file),
        "add_eos_token": adds_eos(file),
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": tokens[i] for role, i in ids.items() if i is not None},
    }
    template = file.metadata("tokenizer.chat_template")
    return config if template is None else {**config, "chat_template": template}


def adds_bos(file: GGUFFile) -> bool:
    stated = file.metadata("tokenizer.ggml.add_bos_token")
    if stated is not None:
        return bool(stated)
    if file.require("tokenizer.ggml.model") == "llama":
        return True
    return pre_tokenizers.adds_bos(_pre(file))


def adds_eos(file: GGUFFile) -> bool:
    return bool(file.metadata("tokenizer.ggml.add_eos_token", False))


def _byte_level(file: GGUFFile) -> Tokenizer:
    pre = _pre(file)
    tokenizer = Tokenizer(
        BPE(
            vocab=_vocab(file),
            merges=[_split_merge(merge) for merge in file.require("tokenizer.ggml.merges")],
            ignore_merges=pre_tokenizers.ignores_merges(pre),
        )
    )
    normalizer = pre_tokenizers.normalizer(pre)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile) -> Tokenizer:
    tokens = file.require("tokenizer.ggml.tokens")
    unknown = tokens[file.metadata("tokenizer.ggml.unknown_token_id", 0)]
    adds_space = file.metadata("tokenizer.ggml.add_space_prefix", True)
    vocab = _vocab(file)
    merges = merges_from_scores(vocab, file.require("tokenizer.ggml.scores"))
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", SPACE)
    prepend = [normalizers.Prepend(SPACE)] if adds_space else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, replace])
    strip = [decoders.Strip(" ", 1, 0)] if adds_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def merges_from_scores(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """The merges a SentencePiece vocabulary implies: any two tokens that make a third, the one
    with the best score first.
    """
    merges = sorted(
        (-scores[token_id], vocab[left], vocab[right], left, right)
        for token, token_id in vocab.items()
        for left, right in _splits(token)
        if left in vocab and right in vocab
    )
    return [(left, right) for _, _, _, left, right in merges]


def _splits(token: str) -> Iterator[tuple[str, str]]:
    return ((token[:i], token[i:]) for i in range(1, len(token)))


def _split_merge(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _vocab(file: GGUFFile) -> dict[str, int]:
    return {token: i for i, token in enumerate(file.require("tokenizer.ggml.tokens"))}


def _pre(file: GGUFFile) -> str:
    """Files older than the key are refused by name rather than cut by a guess."""
    return str(file.metadata("tokenizer.ggml.pre", "default"))


def _add_special_tokens(tokenizer: Tokenizer, file: GGUFFile) -> None:
    tokens = file.require("tokenizer.ggml.tokens")
    types = file.metadata("tokenizer.ggml.token_type", [])
    kinds = list(zip(tokens, types, strict=False))
    special = [token for token, kind in kinds if kind in (UNKNOWN, CONTROL)]
    user_defined = [token for token, kind in kinds if kind == USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in user_defined])


def _add_bos_and_eos(tokenizer: Tokenizer, file: GGUFFile) -> None:
    tokens = file.require("tokenizer.ggml.tokens")
    before = ["bos"] if adds_bos(file) else []
    after = ["eos"] if adds_eos(file) else []
    if not before and not after:
        return
    special = {role: file.require(f"tokenizer.ggml.{role}_token_id") for role in (*before, *after)}
    before_tokens = [tokens[special[role]] for role in before]
    after_tokens = [tokens[special[role]] for role in after]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before_tokens, "$A", *after_tokens],
        pair=[*before_tokens, "$A", *after_tokens, "$B", *after_tokens],
        special_tokens=[(tokens[i], i) for i in special.values()],
    )
