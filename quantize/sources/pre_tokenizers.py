"""How byte-level BPE families cut text before merging, by GGUF's ``tokenizer.ggml.pre``.

The patterns are those of the models' own ``tokenizer.json``.
"""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from qoq.quantize.errors import ModelSourceError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_WORDS_AND_SPACES}"
QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_WORDS_AND_SPACES}"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_FAMILY = {
    "gpt-2": "gpt-2",
    "smollm": "digits",
    "starcoder": "digits",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "falcon3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "tekken": "tekken",
}


def pre_tokenizer(pre: str) -> PreTokenizer:
    """The pre-tokenizer of ``tokenizer.ggml.pre``; an unknown one is an error, since a guess
    would cut text in other places than the model was trained on.
    """
    family = _family(pre)
    if family == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    if family == "digits":
        digits = Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, ByteLevel(add_prefix_space=False)])
    pattern = {"llama3": LLAMA3, "qwen2": QWEN2, "tekken": TEKKEN}[family]
    cut = Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)])


def normalizer(pre: str) -> Normalizer | None:
    return normalizers.NFC() if _family(pre) == "qwen2" else None


def ignores_merges(pre: str) -> bool:
    """Whether a piece that is a token as a whole is never split."""
    return _family(pre) in ("llama3", "tekken")


def adds_bos(pre: str) -> bool:
    """What llama.cpp assumes where the file does not say."""
    return _family(pre) in ("llama3", "tekken")


def _family(pre: str) -> str:
    if pre not in _FAMILY:
        raise ModelSourceError(
            f"pre-tokenizer {pre!r} is not known (known are {', '.join(_FAMILY)}); "
            "use the Hugging Face folder of this model"
        )
    return _FAMILY[pre]
