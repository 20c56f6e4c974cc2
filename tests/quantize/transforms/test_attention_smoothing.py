from pathlib import Path

import pytest
import torch

from qoq.quantize.transforms.attention_smoothing import smooth_attention

from .tiny_decoder import TinyDecoder


def test_keys_are_divided_by_the_root_of_the_larger_of_a_pair(tmp_path: Path):
    """Channels 3 and 11 of 16 form a pair, in the second of two key heads."""
    layer = TinyDecoder.make(tmp_path, "qwen2-bias").layers[0]
    before = dict(layer.tensors)
    key_max = torch.ones(2, 16)
    key_max[1, 3], key_max[1, 11] = 4.0, 25.0
    smooth_attention(layer, key_max, alpha=0.5)
    expected = torch.ones(32)
    expected[16 + 3] = expected[16 + 11] = 5.0
    for name, ndim in (("weight", 2), ("bias", 1)):
        key = f"self_attn.k_proj.{name}"
        divisors = expected.reshape(-1, *[1] * (ndim - 1))
        assert torch.allclose(layer.tensors[key] * divisors, before[key], rtol=1e-6)


def test_norm_gains_take_the_maximum_over_heads(tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "qwen3-qk-norm").layers[0]
    before = dict(layer.tensors)
    key_max = torch.ones(2, 32)
    key_max[0, 0], key_max[1, 16] = 4.0, 9.0
    smooth_attention(layer, key_max, alpha=0.5)
    gain = before["self_attn.k_norm.weight"] / layer.tensors["self_attn.k_norm.weight"]
    expected = torch.ones(32)
    expected[0] = expected[16] = 3.0
    assert torch.allclose(gain, expected, rtol=1e-6)
    assert torch.equal(layer.tensors["self_attn.k_proj.weight"], before["self_attn.k_proj.weight"])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("unused", [0.0, 1e-45, 1e30])
def test_extreme_channels_stay_finite(alpha: float, unused: float, tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "qwen2-bias").layers[0]
    key_max = torch.ones(2, 16)
    key_max[:, ::8] = unused
    smooth_attention(layer, key_max, alpha)
    assert all(torch.isfinite(tensor).all() for tensor in layer.tensors.values())
