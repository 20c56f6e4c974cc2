"""Rotary frequencies against transformers' own, over the parameters of published models."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qoq.engine.models.config import parse_model_config
from qoq.engine.models.rotary import make_rope_table, rope_frequencies

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 2.0},
    LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192},
    LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 1024},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096,
     "beta_fast": 24, "beta_slow": 2, "attention_factor": 0.9},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
     "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": False},
]  # fmt: skip


def llama(rope: dict, head_dim: int = 128) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters={"rope_theta": 500000.0, **rope},
    )


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("rope", SCALINGS, ids=lambda rope: f"{rope['rope_type']}-{rope['factor']}")
def test_frequencies_equal(rope: dict, head_dim: int):
    config = llama(rope, head_dim)
    expected, expected_scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    actual, scale = rope_frequencies(parse_model_config(config.to_dict()), 4096)
    # A handful of fp32 roundings apart; a wrong parameter changes some frequency by far more.
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    assert scale == pytest.approx(expected_scale, rel=1e-12)


def test_the_scalings_differ_from_the_default():
    """Else the comparison above would pass for code that ignores them."""
    plain, _ = rope_frequencies(parse_model_config(llama({"rope_type": "default"}).to_dict()), 4096)
    for rope in SCALINGS:
        if rope["rope_type"] != "dynamic":
            scaled, _ = rope_frequencies(parse_model_config(llama(rope).to_dict()), 4096)
            assert (scaled / plain - 1).abs().max() > 0.5


def test_the_table_holds_scaled_cosines_and_sines_of_every_position():
    config = parse_model_config(llama(SCALINGS[5]).to_dict())
    inv_freq, scale = rope_frequencies(config, 300)
    cos, minus_sin, sin = make_rope_table(config, 300).unbind(dim=1)
    angle = torch.arange(300.0)[:, None] * inv_freq
    torch.testing.assert_close(cos, angle.cos() * scale)
    torch.testing.assert_close(sin, angle.sin() * scale)
    assert torch.equal(minus_sin, -sin)


def test_an_unknown_scaling_is_refused_with_the_list():
    config = llama({"rope_type": "default"}).to_dict()
    config["rope_parameters"]["rope_type"] = "longrope"
    with pytest.raises(ValueError, match="'longrope' is not supported; supported are default"):
        rope_frequencies(parse_model_config(config), 4096)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_a_missing_parameter_is_named(kind: str):
    config = llama({"rope_type": "default"}).to_dict()
    config["rope_parameters"]["rope_type"] = kind
    with pytest.raises(ValueError, match=f"{kind} RoPE scaling needs 'factor'"):
        rope_frequencies(parse_model_config(config), 4096)
