from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qoq.engine.precision import PRECISIONS
from qoq.quantize.calibration.layer_forward import LayerForward
from qoq.quantize.transforms.key_alignment import align_keys

from .tiny_decoder import TinyDecoder

HIDDEN = torch.randn(1, 60, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def test_the_mean_of_each_pair_comes_to_lie_on_the_diagonal(tmp_path: Path):
    """As many degrees before RoPE as after it: both turn in the same plane."""
    decoder = TinyDecoder.make(tmp_path, "qwen2-bias")
    forward, layer = LayerForward.of(decoder.config, PRECISIONS["fp32"], 60), decoder.layers[0]
    before = forward(layer, HIDDEN).keys.mean(dim=0)
    align_keys(layer, before)
    first, second = forward(layer, HIDDEN).keys.mean(dim=0).unflatten(-1, (2, -1)).unbind(-2)
    assert torch.allclose(first, second, atol=1e-5)
    assert (first > 0).all()
    length = before.unflatten(-1, (2, -1)).norm(dim=-2)
    assert torch.allclose(first, length / 2**0.5, atol=1e-5)


def test_channels_that_differ_in_sign_alone_get_half_the_range(tmp_path: Path):
    """Every channel of every key is 1 or -1: the range is 2, and 0 once all point one way."""
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]
    signs = torch.where(torch.arange(32) % 3 == 0, 1.0, -1.0)
    layer.tensors["self_attn.k_proj.weight"] = signs[:, None].expand(32, 64).clone()
    align_keys(layer, signs.view(2, 16))
    keys = layer.tensors["self_attn.k_proj.weight"]
    assert torch.allclose(keys, torch.ones(32, 64), atol=1e-6)


def test_gains_of_norms_cannot_be_turned(tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "qwen3-qk-norm").layers[0]
    before = dict(layer.tensors)
    align_keys(layer, torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))
    assert all(layer.tensors[name] is tensor for name, tensor in before.items())


def test_a_mean_of_zero_leaves_everything_finite(tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]
    align_keys(layer, torch.zeros(2, 16))
    assert all(torch.isfinite(tensor).all() for tensor in layer.tensors.values())
