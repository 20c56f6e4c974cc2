import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.hf_source import HFSource, read_json
from qoq.quantize.sources.model_source import open_source

from ..tiny_hf import write_tiny_hf


@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
def test_reads_single_and_sharded_folders(tmp_path: Path, max_shard_size: str):
    folder = write_tiny_hf(tmp_path / "model", max_shard_size=max_shard_size)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) > 1) is (max_shard_size == "20KB")
    expected = {name: tensor for file in files for name, tensor in load_file(file).items()}
    source = open_source(folder)
    assert set(source.names) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(source.load(name), tensor)
        assert source.dtype(name) == torch.bfloat16
        assert source.shape(name) == tuple(tensor.shape)


def test_a_tied_head_that_was_stored_anyway_is_left_out(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    config = read_json(folder / "config.json") | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert "lm_head.weight" not in open_source(folder).names


def test_a_consolidated_copy_beside_the_weights_is_ignored(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    save_file({"tok_embeddings.weight": torch.zeros(2)}, folder / "consolidated.safetensors")
    assert "tok_embeddings.weight" not in HFSource(folder).names


def test_refuses_bin_files_with_the_reason(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelSourceError, match=r"weights in \.bin files.*save the model as safe"):
        open_source(folder)


def test_refuses_an_unsupported_architecture_by_name(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    config = read_json(folder / "config.json") | {"architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelSourceError, match="'GPT2LMHeadModel' is not supported; .*Qwen3For"):
        open_source(folder)


def test_refuses_a_model_that_is_quantized_in_a_way_it_does_not_know(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    config = read_json(folder / "config.json") | {"quantization_config": {"quant_method": "fp8"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelSourceError, match="by 'fp8', and what can be .* qserve, awq"):
        open_source(folder)


def test_refuses_tensors_that_are_not_16_or_32_bit_floats(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelSourceError, match=r"model\.norm\.weight is F8_E4M3; give a model in"):
        HFSource(folder).load("model.norm.weight")


def test_names_what_is_broken(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model", max_shard_size="20KB")
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelSourceError, match=f"{shard.name} is not a whole safetensors file"):
        open_source(folder)
    shard.unlink()
    with pytest.raises(ModelSourceError, match=f"lacks {shard.name}; download the model again"):
        open_source(folder)
    (folder / "config.json").write_text("{broken")
    with pytest.raises(ModelSourceError, match=r"config\.json is not valid JSON"):
        HFSource(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelSourceError, match=r"has no config\.json"):
        HFSource(folder)


def test_copies_the_tokenizer_files(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    out = tmp_path / "out"
    out.mkdir()
    HFSource(folder).write_tokenizer(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_converts_a_tokenizer_that_has_no_tokenizer_json(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model", "Qwen2")
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer_config = {"tokenizer_class": "Qwen2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    out = tmp_path / "out"
    out.mkdir()
    HFSource(folder).write_tokenizer(out)
    assert read_json(out / "tokenizer.json")["model"]["vocab"]["ab"] == 2


def test_says_so_where_there_is_no_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write_tiny_hf(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        HFSource(folder).write_tokenizer(tmp_path)
    assert "has no tokenizer" in caplog.text
