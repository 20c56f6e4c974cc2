import json
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Split

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.gguf_file import GGUFFile
from qoq.quantize.sources.gguf_tokenizer import (
    build_tokenizer,
    merges_from_scores,
    tokenizer_config,
)

from ..tiny_gguf import finish, write_tiny_gguf

TEXTS = [
    "Hello world, it's 12345 o'clock; I'LL say I'd've known.",
    "def f(x):\n    return x ** 2  # 3.14159\n\n\n\tif  True:\n",
    "Grüße, naïve café — 日本語のテキスト, 한국어, العربية, हिन्दी, emoji 👩‍👩‍👧‍👦 🤖!",
    "   leading, trailing   \r\n\r\n tabs\t\tand\u00a0nbsp 99% $5.00 ½ ² ٣",
    "cafe\u0301 A\u030a camelCaseWords SHOUTING snake_case/path/to",
    "<|im_start|>user\nhe said<|im_end|>",
    "",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = ByteLevel(add_prefix_space=False)
CUTS = {
    "gpt-2": GPT2,
    "smollm": pre_tokenizers.Sequence([Digits(individual_digits=True), GPT2]),
    "llama-bpe": pre_tokenizers.Sequence([Split(Regex(LLAMA3), "isolated"), BYTES]),
    "qwen2": pre_tokenizers.Sequence([Split(Regex(QWEN2), "isolated"), BYTES]),
}
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def train(pre: str) -> Tokenizer:
    """A small tokenizer of the family, as its own tokenizer.json has it."""
    tokenizer = Tokenizer(BPE(ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = CUTS[pre]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


def write_tokenizer_gguf(path: Path, tokenizer: Tokenizer, pre: str) -> GGUFFile:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    finish(writer)
    return GGUFFile(path)


@pytest.mark.parametrize("pre", CUTS)
def test_equals_the_tokenizer_that_was_converted(tmp_path: Path, pre: str):
    original = train(pre)
    rebuilt = build_tokenizer(write_tokenizer_gguf(tmp_path / "x.gguf", original, pre))
    for text in TEXTS:
        ids = rebuilt.encode(text, add_special_tokens=False).ids
        assert ids == original.encode(text, add_special_tokens=False).ids, text
        decoded = rebuilt.decode(ids, skip_special_tokens=False)
        assert decoded == original.decode(ids, skip_special_tokens=False)
        if pre != "qwen2":  # which composes accents first
            assert decoded == text


def test_families_cut_differently(tmp_path: Path):
    """Guards the test above: a pre-tokenizer taken for another would change these pieces."""
    pieces = set()
    for pre in CUTS:
        file = write_tokenizer_gguf(tmp_path / "x.gguf", train("gpt-2"), pre)
        cut = build_tokenizer(file).pre_tokenizer.pre_tokenize_str(" 12345 I'LL")
        pieces.add(tuple(piece for piece, _ in cut))
    assert len(pieces) == len(CUTS)


@pytest.mark.parametrize(
    ("pre", "tokens"), [("llama-bpe", ["abc"]), ("tekken", ["abc"]), ("qwen2", ["ab", "c"])]
)
def test_only_some_families_take_a_whole_token_that_no_merge_makes(
    tmp_path: Path, pre: str, tokens: list[str]
):
    tokens_in_order = [*sorted(ByteLevel.alphabet()), "ab", "abc", *SPECIAL]
    vocab = {token: i for i, token in enumerate(tokens_in_order)}
    file = write_tokenizer_gguf(tmp_path / "x.gguf", Tokenizer(BPE(vocab, [("a", "b")])), pre)
    assert build_tokenizer(file).encode("abc", add_special_tokens=False).tokens == tokens


def test_unknown_or_unstated_pre_tokenizers_are_refused_by_name(tmp_path: Path):
    for pre in ("default", "made-up"):
        file = write_tokenizer_gguf(tmp_path / "x.gguf", train("gpt-2"), pre)
        with pytest.raises(ModelSourceError, match=f"pre-tokenizer '{pre}' is not known"):
            build_tokenizer(file)


def test_bos_is_added_where_the_file_or_the_family_says_so(tmp_path: Path):
    stated = tmp_path / "stated.gguf"
    write_tiny_gguf(stated, extra=lambda writer: writer.add_add_bos_token(True))
    assert build_tokenizer(GGUFFile(stated)).encode("he").ids == [257, 256]
    assert tokenizer_config(GGUFFile(stated))["add_bos_token"] is True
    write_tiny_gguf(tmp_path / "silent.gguf")
    assert build_tokenizer(GGUFFile(tmp_path / "silent.gguf")).encode("he").ids == [256]
    llama3 = write_tokenizer_gguf(tmp_path / "llama3.gguf", train("llama-bpe"), "llama-bpe")
    assert build_tokenizer(llama3).encode("he").tokens[0] == "<|im_start|>"


def test_special_tokens_are_single_ids_and_skipped_in_text(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf")
    tokenizer = build_tokenizer(GGUFFile(tmp_path / "x.gguf"))
    ids = tokenizer.encode("<|im_start|>he<|im_end|>").ids
    assert ids == [257, 256, 258]
    assert tokenizer.decode(ids) == "he"


def test_config_names_the_special_tokens_and_the_template(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf")
    config = tokenizer_config(GGUFFile(tmp_path / "x.gguf"))
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert config["chat_template"] == "{{ messages[0]['content'] }}"
    assert "pad_token" not in config


PIECES = ["▁", "a", "b", "c", "ab", "bc", "▁a", "abc", "▁ab", "ca", "▁c", "▁abc", "bb"]
SCORES = [-20, -21, -22, -23, -2, -1, -3, -4, -9, -5, -6, -7, -8]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def write_sentencepiece_gguf(path: Path, **options: bool) -> GGUFFile:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *BYTE_TOKENS, *PIECES])
    writer.add_token_scores([0.0] * 259 + [float(score) for score in SCORES])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(PIECES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if "space_prefix" in options:
        writer.add_add_space_prefix(options["space_prefix"])
    finish(writer)
    return GGUFFile(path)


def sentencepiece_bpe(text: str) -> list[str]:
    """SentencePiece's rule: merge the neighbours whose union scores best, leftmost first."""
    score = dict(zip(PIECES, SCORES, strict=True))
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [
            (score.get(a + b, -999), -i)
            for i, (a, b) in enumerate(zip(pieces, pieces[1:], strict=False))
        ]
        best = max(pairs, default=(-999, 0))
        if best[0] == -999:
            return pieces
        at = -best[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return build_tokenizer(write_sentencepiece_gguf(tmp_path_factory.mktemp("spm") / "x.gguf"))


@given(text=st.text(alphabet="abc ", min_size=1, max_size=20))
def test_sentencepiece_merges_in_the_order_of_the_scores(sentencepiece: Tokenizer, text: str):
    encoding = sentencepiece.encode(text, add_special_tokens=False)
    assert encoding.tokens == sentencepiece_bpe(text)
    assert sentencepiece.decode(encoding.ids) == text


def test_sentencepiece_falls_back_to_bytes_and_adds_bos(sentencepiece: Tokenizer):
    encoding = sentencepiece.encode("é\n")
    assert encoding.tokens == ["<s>", "▁", "<0xC3>", "<0xA9>", "<0x0A>"]
    assert sentencepiece.decode(encoding.ids) == "é\n"


def test_sentencepiece_without_a_space_in_front(tmp_path: Path):
    file = write_sentencepiece_gguf(tmp_path / "x.gguf", space_prefix=False)
    encoding = build_tokenizer(file).encode(" ab", add_special_tokens=False)
    assert encoding.tokens == ["▁ab"]
    assert build_tokenizer(file).decode(encoding.ids) == " ab"


def test_merges_come_best_score_first():
    vocab = {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4}
    assert merges_from_scores(vocab, [-9, -9, -2, -1, -3]) == [
        ("b", "a"),
        ("a", "b"),
        ("a", "ba"),
        ("ab", "a"),
    ]


def test_other_tokenizers_are_refused(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model("rwkv")
    finish(writer)
    with pytest.raises(ModelSourceError, match="tokenizer 'rwkv' is not supported"):
        build_tokenizer(GGUFFile(tmp_path / "x.gguf"))
