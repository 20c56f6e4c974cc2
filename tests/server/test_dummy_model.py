"""Random weights behind the whole of `qoq serve`, for measuring."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from qoq.engine.checkpoint import CheckpointError
from qoq.loadtest.__main__ import main as loadtest
from qoq.server.dummy_model import dummy_model, dummy_tokenizer
from qoq.server.tokenizer import Tokenizer

from .serve_process import serve_process

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 600,
    "max_position_embeddings": 512,
}


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path / "tiny"


@pytest.mark.parametrize("vocab_size", [96, 256, 1000])
def test_every_id_is_a_token_of_its_own(vocab_size: int):
    core = dummy_tokenizer(vocab_size)
    assert core.get_vocab_size() == vocab_size
    assert len({core.id_to_token(token_id) for token_id in range(vocab_size)}) == vocab_size


def test_a_text_is_its_bytes_and_a_later_token_its_number():
    tokenizer = Tokenizer(dummy_tokenizer(1000))
    token_ids = tokenizer.encode("Hello, wörld\n")
    assert len(token_ids) == 14
    assert tokenizer.decode(token_ids) == "Hello, wörld\n"
    assert tokenizer.decode([999, 256]) == " 999 256"


def test_a_shape_of_the_package_has_its_own_limit_or_what_is_asked_for():
    for asked, limit in ((None, 8192), (100, 8192), (32768, 32768)):
        with dummy_model(Path("llama-3-8b"), asked) as folder:
            config = json.loads((folder / "config.json").read_text())
            assert (folder.name, config["max_position_embeddings"]) == ("llama-3-8b", limit)
            assert config["vocab_size"] == 128256
    assert not folder.exists()


def test_a_folder_keeps_its_tokenizer(shape: Path):
    dummy_tokenizer(300).save(str(shape / "tokenizer.json"))
    (shape / "generation_config.json").write_text('{"eos_token_id": 7}')
    with dummy_model(shape, 1024) as folder:
        longer = SHAPE | {"max_position_embeddings": 1024}
        assert json.loads((folder / "config.json").read_text()) == longer
        tokenizer = Tokenizer.load(folder)
    assert tokenizer.eos_token_ids == (7,)
    assert tokenizer.decode([299]) == " 299"


def test_no_shape_is_refused_with_those_that_are():
    with (
        pytest.raises(CheckpointError, match="llama-9: neither a folder .* nor one of .*yi-34b"),
        dummy_model(Path("llama-9"), None),
    ):
        pass


def test_it_answers_longer_prompts_than_the_shape_has_positions(
    shape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--load-format=dummy", "--max-model-len=1024", "--num-threads=1", "--device=cpu"]
    with serve_process(shape, tmp_path / "log", *flags, "--kv-cache-bytes=4MiB") as (_, url):
        options = ["--token-ids-below=600", "--num-requests=4", "--input-len=700"]
        assert loadtest([f"--base-url={url}", *options, "--output-len=20"]) == 0
        body = {"prompt": "Hi", "max_tokens": 3, "ignore_eos": True, "return_token_ids": True}
        answer = httpx.post(f"{url}/v1/completions", json={"model": str(shape), **body}).json()
    out = capsys.readouterr().out
    assert "4 finished" in out and "2800 prompt, 80 output" in out
    assert answer["usage"] == answer["usage"] | {"prompt_tokens": 2, "completion_tokens": 3}
    assert len(answer["choices"][0]["token_ids"]) == 3
