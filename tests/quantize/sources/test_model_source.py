from pathlib import Path

import pytest

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.model_source import by_layer, is_decoder_linear, open_source


def test_layers_come_in_order_with_the_embedding_first_and_the_head_last():
    names = [
        "lm_head.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.norm.weight",
        "model.layers.2.input_layernorm.weight",
        "model.embed_tokens.weight",
    ]
    assert list(by_layer(names)) == [
        ["model.embed_tokens.weight"],
        ["model.layers.2.input_layernorm.weight", "model.layers.2.mlp.up_proj.weight"],
        ["model.layers.10.mlp.up_proj.weight"],
        ["lm_head.weight", "model.norm.weight"],
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", True),
        ("model.layers.31.mlp.down_proj.weight", True),
        ("model.layers.0.self_attn.q_proj.bias", False),
        ("model.layers.0.self_attn.q_norm.weight", False),
        ("model.layers.0.input_layernorm.weight", False),
        ("model.embed_tokens.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_only_the_seven_projections_are_quantized(name: str, expected: bool):
    assert is_decoder_linear(name) is expected


def test_a_missing_path_is_named(tmp_path: Path):
    with pytest.raises(ModelSourceError, match="gone does not exist"):
        open_source(tmp_path / "gone")
