from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Quant

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.gguf_source import GGUFSource, unpermute
from qoq.quantize.sources.model_source import open_source

from ..tiny_gguf import HEADS, tiny_state, to_gguf_rows, write_tiny_gguf


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_gives_back_the_tensors_that_were_converted(tmp_path: Path, architecture: str):
    """For llama the file's Q and K rows are permuted; for the others they are not."""
    weights = write_tiny_gguf(tmp_path / "x.gguf", architecture)
    source = open_source(tmp_path / "x.gguf")
    assert set(source.names) == set(weights)
    for name, weight in weights.items():
        assert torch.equal(source.load(name), weight), name
        assert source.shape(name) == tuple(weight.shape)


def test_the_file_really_is_permuted():
    """Guards the test above: were the permutation the identity, it would prove nothing."""
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = tiny_state()[name]
    permuted = to_gguf_rows(name, weight, "llama")
    assert not torch.equal(permuted, weight)
    assert torch.equal(unpermute(permuted, HEADS), weight)
    assert torch.equal(unpermute(permuted[:, 0], HEADS), weight[:, 0])  # a bias


def test_an_untied_head_is_read(tmp_path: Path):
    state = tiny_state(is_tied=False)
    write_tiny_gguf(tmp_path / "x.gguf", state=state)
    source = open_source(tmp_path / "x.gguf")
    assert source.config["tie_word_embeddings"] is False
    assert torch.equal(source.load("lm_head.weight"), state["lm_head.weight"])


def test_unquantized_tensors_keep_the_precision_of_the_file(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf", quant=Quant.Q8_0)
    source = GGUFSource(tmp_path / "x.gguf")
    assert source.dtype("model.norm.weight") == torch.float32
    assert source.dtype("model.embed_tokens.weight") == torch.float16
    write_tiny_gguf(tmp_path / "y.gguf", quant=Quant.BF16)
    assert GGUFSource(tmp_path / "y.gguf").dtype("model.embed_tokens.weight") == torch.bfloat16


def test_refuses_an_unsupported_architecture_by_name(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf", "gemma2")
    with pytest.raises(ModelSourceError, match="'gemma2' is not supported; .* llama, qwen2, qwen3"):
        open_source(tmp_path / "x.gguf")


def test_refuses_mixtures_of_experts(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf", extra=lambda writer: writer.add_expert_count(8))
    with pytest.raises(ModelSourceError, match="mixture of experts"):
        open_source(tmp_path / "x.gguf")


def test_names_a_tensor_that_is_missing_or_unknown(tmp_path: Path):
    state = tiny_state()
    del state["model.layers.1.mlp.up_proj.weight"]
    write_tiny_gguf(tmp_path / "x.gguf", state=state)
    with pytest.raises(ModelSourceError, match=r"lacks tensor model\.layers\.1\.mlp\.up_proj"):
        open_source(tmp_path / "x.gguf")
    extra = torch.zeros(4).numpy()
    write_tiny_gguf(tmp_path / "y.gguf", extra=lambda writer: writer.add_tensor("blk.0.odd", extra))
    with pytest.raises(ModelSourceError, match=r"tensor blk\.0\.odd belongs to no supported"):
        open_source(tmp_path / "y.gguf")
