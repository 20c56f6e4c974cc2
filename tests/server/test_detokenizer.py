"""Text that comes in pieces is the text that comes at once, and a stop string is never in it."""

import json
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from qoq.server.detokenizer import Detokenizer, StopStrings
from qoq.server.pieces import Pieces, TokenizerError

SPECIALS = ["<unk>", "<s>", "</s>"]
WORDS = ["▁", "▁▁", "▁a", "a", "b", "日", "▁▁hello", "x▁y", "🙂", "<0xZZ>"]


def byte_level() -> Tokenizer:
    """Bytes, halves of characters merged with their neighbours, special and added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    as_spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [as_spelled.pre_tokenize_str(text)[0][0] for text in ("é", "日本", "🙂", " the")]
    parts = {part for word in spelled for part in (word, word[:-1], word[1:])}
    vocab = {token: i for i, token in enumerate([*alphabet, *sorted(parts - set(alphabet))])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    core.add_tokens([AddedToken("<tool call>"), AddedToken("caf\u00e9 日")])
    return core


def sentencepiece(decoder: decoders.Decoder) -> Tokenizer:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate([*SPECIALS, *byte_tokens, *WORDS])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    core.decoder = decoder
    core.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    return core


LLAMA = sentencepiece(
    decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
)
GEMMA = sentencepiece(
    decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
)
METASPACE = sentencepiece(
    decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
)
BYTE_LEVEL = byte_level()
FIRST_WORD = 3 + 256  # of the SentencePiece vocabularies: specials, bytes, then words


def pieces_of(core: Tokenizer) -> Pieces:
    added = core.get_added_tokens_decoder()
    return Pieces(core, skip={token_id for token_id, token in added.items() if token.special})


def incrementally(core: Tokenizer, token_ids: list[int], cuts: list[int]) -> list[str]:
    """The deltas of ``token_ids``, fed in as many at a time as ``cuts`` says."""
    detokenizer = Detokenizer(pieces_of(core))
    bounds = [0, *(min(cut, len(token_ids)) for cut in accumulate(cuts)), len(token_ids)]
    deltas = [detokenizer.add(token_ids[start:stop]) for start, stop in pairwise(bounds)]
    return [*deltas, detokenizer.finish()]


CUTS = st.lists(st.integers(0, 4), max_size=40)


@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=40), CUTS)
def test_byte_level_deltas_make_the_full_decode(token_ids: list[int], cuts: list[int]) -> None:
    """Any ids at all, broken UTF-8 and special tokens among them."""
    assert "".join(incrementally(BYTE_LEVEL, token_ids, cuts)) == BYTE_LEVEL.decode(token_ids)


@given(st.text(max_size=30))
def test_a_delta_never_holds_half_a_character(text: str) -> None:
    token_ids = [BYTE_LEVEL.token_to_id(char) for char in _spelled(text)]
    deltas = incrementally(BYTE_LEVEL, token_ids, [1] * len(token_ids))
    assert "".join(deltas) == text
    assert all("\ufffd" not in delta for delta in deltas) or "\ufffd" in text


def _spelled(text: str) -> str:
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(part for part, _ in spell.pre_tokenize_str(text)) if text else ""


def whole_characters() -> st.SearchStrategy[list[int]]:
    """SentencePiece ids whose byte tokens spell whole characters, as a model's nearly always do."""
    as_bytes = st.text(min_size=1, max_size=3).map(
        lambda text: [3 + byte for byte in text.encode()]
    )
    others = st.integers(0, 2) | st.integers(FIRST_WORD, FIRST_WORD + len(WORDS) - 1)
    return st.lists(as_bytes | others.map(lambda token_id: [token_id]), max_size=20).map(
        lambda parts: [token_id for part in parts for token_id in part]
    )


@pytest.mark.parametrize("core", [LLAMA, GEMMA, METASPACE], ids=["llama", "gemma", "metaspace"])
@given(token_ids=whole_characters(), cuts=CUTS)
def test_sentencepiece_deltas_make_the_full_decode(
    core: Tokenizer, token_ids: list[int], cuts: list[int]
) -> None:
    assert "".join(incrementally(core, token_ids, cuts)) == core.decode(token_ids)


@given(st.lists(st.integers(0, LLAMA.get_vocab_size() - 1), max_size=40), CUTS)
def test_broken_bytes_do_not_depend_on_how_they_came(token_ids: list[int], cuts: list[int]) -> None:
    """The library would turn a whole run of byte tokens to U+FFFD for one that is broken."""
    at_once = "".join(incrementally(LLAMA, token_ids, [len(token_ids)]))
    assert "".join(incrementally(LLAMA, token_ids, cuts)) == at_once


def test_a_cut_emoji_leaves_the_one_before_it_whole() -> None:
    """Where `max_tokens` ends a text inside a character, the library loses the whole byte run."""
    token_ids = [3 + byte for byte in "日🙂".encode()[:-1]]
    assert "".join(incrementally(LLAMA, token_ids, [1] * 9)) == "日\ufffd"


def test_continued_text_keeps_its_leading_space() -> None:
    hello = [FIRST_WORD + WORDS.index("▁a")]
    assert Detokenizer(pieces_of(LLAMA)).add(hello) == "a"
    assert Detokenizer(pieces_of(LLAMA), continues_text=True).add(hello) == " a"


def test_each_token_costs_the_same() -> None:
    """A thousand tokens that never make a character: nothing may be decoded again and again."""
    core = byte_level()
    pieces = pieces_of(core)
    detokenizer = Detokenizer(pieces)
    for _ in range(20_000):
        detokenizer.add([core.token_to_id("Ģ")])  # the byte 0x80, never whole on its own
    assert len(pieces) == 1


def test_a_decoder_of_another_family_is_refused_by_name() -> None:
    core = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    with pytest.raises(TokenizerError, match="WordPiece"):
        Pieces(core)
    core.decoder = None
    with pytest.raises(TokenizerError, match="no decoder"):
        Pieces(core)


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """By definition: the stop string that ends first, and of two that end together the longer."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


@settings(max_examples=400)
@given(st.text("abc", max_size=30), STOPS, CUTS)
def test_stop_strings_cut_like_the_full_text(text: str, stops: list[str], cuts: list[int]) -> None:
    expected, is_stopped = cut_at_first_stop(text, stops)
    cutter = StopStrings(stops)
    bounds = [0, *(min(cut, len(text)) for cut in accumulate(cuts)), len(text)]
    shown, stopped = "", False
    for start, stop in pairwise(bounds):
        delta, stopped = cutter.add(text[start:stop])
        shown += delta
        assert expected.startswith(shown), "text of a stop string leaked"
        if stopped:
            break
    assert shown + cutter.finish() == expected
    assert stopped is is_stopped
    assert not any(stop in expected for stop in stops)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["###", "end"])
    assert stops.add("one # two e") == ("one # two ", False)
    assert stops.add("ach #") == ("each ", False)
    assert stops.add("##") == ("", True)
    assert stops.finish() == ""


def test_decoder_description_is_read_as_the_library_writes_it() -> None:
    """`Pieces` reads the decoder's pickle state, which must stay the JSON of tokenizer.json."""
    assert json.loads(LLAMA.decoder.__getstate__()) == json.loads(LLAMA.to_str())["decoder"]
