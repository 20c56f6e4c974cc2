import math
from pathlib import Path

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qoq.engine.models.config import parse_model_config
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.gguf_config import read_config, read_generation_config
from qoq.quantize.sources.gguf_file import GGUFFile

from ..tiny_gguf import HEAD_DIM, write_tiny_gguf

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config_of(path: Path, architecture: str = "llama", **options: object) -> dict[str, object]:
    write_tiny_gguf(path / "x.gguf", architecture, **options)
    return read_config(GGUFFile(path / "x.gguf"))


def test_is_a_config_that_transformers_and_the_engine_read(tmp_path: Path):
    config = config_of(tmp_path)
    theirs = transformers.LlamaConfig.from_dict(config)
    ours = parse_model_config(config)
    assert (theirs.hidden_size, theirs.head_dim, theirs.num_key_value_heads) == (64, 16, 2)
    assert (ours.hidden_size, ours.head_dim, ours.num_kv_heads) == (64, 16, 2)
    assert theirs.rms_norm_eps == ours.rms_norm_eps == 1e-5
    assert theirs.rope_parameters["rope_theta"] == ours.rope.theta == 10000.0
    assert theirs.tie_word_embeddings and ours.tie_word_embeddings
    assert config["vocab_size"] == 259


@pytest.mark.parametrize(
    ("architecture", "name", "has_bias"),
    [
        ("llama", "LlamaForCausalLM", False),
        ("qwen2", "Qwen2ForCausalLM", True),
        ("qwen3", "Qwen3ForCausalLM", False),
    ],
)
def test_architecture_and_bias(tmp_path: Path, architecture: str, name: str, has_bias: bool):
    config = config_of(tmp_path, architecture)
    assert config["architectures"] == [name]
    assert config["attention_bias"] is has_bias


def test_llama_3_scaling_is_recovered_from_its_divisors(tmp_path: Path):
    """The divisors come from transformers' own formula, so ours is checked against it."""
    rope = {**LLAMA3, "rope_theta": 10000.0}
    model = transformers.LlamaConfig(head_dim=HEAD_DIM, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model, "cpu")
    plain = 10000.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    divisors = (plain / scaled).numpy()
    config = config_of(tmp_path, extra=lambda w: w.add_tensor("rope_freqs.weight", divisors))
    assert config["rope_scaling"] == pytest.approx(LLAMA3)
    assert parse_model_config(config).rope.kind == "llama3"


def test_other_divisors_are_refused(tmp_path: Path):
    odd = torch.linspace(1, 5, HEAD_DIM // 2).numpy()
    with pytest.raises(ModelSourceError, match="not Llama 3.1's scaling"):
        config_of(tmp_path, extra=lambda w: w.add_tensor("rope_freqs.weight", odd))


def test_linear_and_yarn_scaling(tmp_path: Path):
    def linear(writer):
        writer.add_string("llama.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(2.5)

    def yarn(writer):
        writer.add_string("llama.rope.scaling.type", "yarn")
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(128)

    assert config_of(tmp_path, extra=linear)["rope_scaling"] == {
        "rope_type": "linear",
        "factor": 2.5,
    }
    assert config_of(tmp_path, extra=yarn)["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "attention_factor": 0.1 * math.log(4) + 1,
    }


def test_refuses_scaling_and_partial_rotation_it_does_not_know(tmp_path: Path):
    def longrope(writer):
        writer.add_string("llama.rope.scaling.type", "longrope")
        writer.add_rope_scaling_factor(4.0)

    with pytest.raises(ModelSourceError, match="RoPE scaling 'longrope' is not supported"):
        config_of(tmp_path, extra=longrope)
    with pytest.raises(ModelSourceError, match="rotates 8 of 16 head dimensions"):
        config_of(tmp_path, extra=lambda writer: writer.add_rope_dimension_count(8))


def test_every_end_of_turn_token_ends_generation(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf", extra=lambda writer: writer.add_eot_token_id(3))
    assert read_generation_config(GGUFFile(tmp_path / "x.gguf")) == {
        "bos_token_id": 257,
        "eos_token_id": [258, 3],
        "pad_token_id": None,
    }
