"""Reading a checkpoint's tokenizer files, and exactly one BOS."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import processors

from qoq.server.tokenizer import Tokenizer, TokenizerError


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    core = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    core.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 256)]
    )
    core.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def load(folder: Path, **settings: Any) -> Tokenizer:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.load(folder)


def test_round_trip_with_and_without_special_tokens(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("naïve 🙂<|end|>")
    assert token_ids == [*"naïve 🙂".encode(), 257]
    assert tokenizer.decode(token_ids) == "naïve 🙂"
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == "naïve 🙂<|end|>"


@pytest.mark.parametrize("text", ["hi", "<|bos|>hi"])
@pytest.mark.parametrize("add_bos", [True, None])
def test_there_is_one_bos(folder: Path, text: str, add_bos: bool | None) -> None:
    """The post-processor adds one, the text may begin with one, the config asks for one."""
    tokenizer = load(folder, bos_token="<|bos|>", add_bos_token=add_bos)
    assert tokenizer.encode(text) == [256, *b"hi"]


def test_config_decides_against_a_bos(folder: Path) -> None:
    assert load(folder, bos_token="<|bos|>", add_bos_token=False).encode("hi") == [*b"hi"]


def test_config_adds_the_bos_that_the_file_does_not(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    tokenizer = load(tmp_path, bos_token={"content": "<|bos|>"}, add_bos_token=True)
    assert tokenizer.encode("hi") == [256, *b"hi"]
    assert tokenizer.encode("hi", add_special_tokens=False) == [*b"hi"]


def test_generation_config_has_the_last_word_on_eos(folder: Path) -> None:
    assert load(folder, eos_token="<|end|>").eos_token_ids == (257,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 258]}')
    assert load(folder, eos_token="<|end|>").eos_token_ids == (257, 258)


def test_chat_template_comes_from_where_it_is(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert load(folder).chat_template is None
    assert load(folder, chat_template="C").chat_template == "C"
    assert load(folder, chat_template=named).chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert load(folder, chat_template="C").chat_template == "J"


def test_missing_and_corrupt_files_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        Tokenizer.load(tmp_path / "nowhere")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not JSON"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(folder)
