from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.evaluation.passage import Passage
from qoq.quantize.evaluation.tokenizer import EvaluationTokenizer

from .tiny_chat import BOS, EOS, write_byte_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_byte_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture
def merging(tmp_path: Path) -> EvaluationTokenizer:
    """Puts a BOS before a text and joins "a" and "b"."""
    core = tokenizers.Tokenizer(
        models.BPE({"a": 0, "b": 1, "c": 2, "ab": 3, "<s>": 4}, [("a", "b")])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 4)])
    core.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return EvaluationTokenizer(tmp_path)


def test_a_pair_predicts_the_continuation(folder: Path):
    passage = EvaluationTokenizer(folder).encode_pair("ab", " cd")
    assert passage == Passage(list(b"ab cd"), first=2)


def test_a_pair_has_one_bos_and_never_predicts_it(merging: EvaluationTokenizer):
    assert merging.encode_pair("c", "c") == Passage([4, 2, 2], first=2)
    assert merging.encode_pair("", "c") == Passage([4, 2], first=1)


def test_a_token_that_joins_the_two_is_predicted(merging: EvaluationTokenizer):
    """Scored from behind the context's tokens, "ab" would have nothing to predict."""
    assert merging.encode_pair("ca", "b") == Passage([4, 2, 3], first=2)


def test_a_chat_ends_where_the_assistant_begins(folder: Path):
    assert EvaluationTokenizer(folder).encode_chat("Hi") == [BOS, *b"Hi\n"]


def test_decoding_leaves_special_tokens_out(folder: Path):
    assert EvaluationTokenizer(folder).decode([*b"Hi", EOS]) == "Hi"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(ModelSourceError, match="the tokenizer cannot be read"):
        EvaluationTokenizer(tmp_path)


def test_a_model_without_a_chat_template_is_refused(merging: EvaluationTokenizer):
    with pytest.raises(ModelSourceError, match="no chat template; leave the task `refusals` out"):
        merging.encode_chat("Hi")
