from pathlib import Path

import pytest
import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.output_smoothing import smooth_outputs

from .tiny_decoder import TinyDecoder


@pytest.fixture
def layer(tmp_path: Path) -> LayerWeights:
    """``llama-biases``: 4 query heads on 2 value heads of 16 channels, 96 MLP channels."""
    return TinyDecoder.make(tmp_path, "llama-biases").layers[0]


def log_normal(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(4)).exp()


def column_max(layer: LayerWeights, linear: str) -> Tensor:
    return layer.tensors[f"{linear}.weight"].abs().amax(dim=0)


def all_equal(values: Tensor) -> bool:
    return torch.allclose(values, values.flatten()[0].expand_as(values), rtol=1e-5)


def test_alpha_zero_evens_out_the_columns(layer: LayerWeights):
    smooth_outputs(layer, "down_proj", log_normal(96), alpha=0.0)
    assert all_equal(column_max(layer, "mlp.down_proj"))


def test_alpha_zero_evens_out_the_columns_of_a_group_together(layer: LayerWeights):
    smooth_outputs(layer, "o_proj", log_normal(64), alpha=0.0)
    assert all_equal(column_max(layer, "self_attn.o_proj").view(2, 2, 16).amax(dim=1))


def test_alpha_one_evens_out_the_inputs(layer: LayerWeights):
    input_max, before = log_normal(96), layer.tensors["mlp.up_proj.bias"]
    smooth_outputs(layer, "down_proj", input_max, alpha=1.0)
    divisors = before / layer.tensors["mlp.up_proj.bias"]
    assert all_equal(input_max / divisors)


def test_alpha_one_evens_out_the_inputs_of_a_group_together(layer: LayerWeights):
    input_max, before = log_normal(64), layer.tensors["self_attn.v_proj.bias"]
    smooth_outputs(layer, "o_proj", input_max, alpha=1.0)
    divisors = (before / layer.tensors["self_attn.v_proj.bias"]).view(2, 1, 16)
    assert all_equal((input_max.view(2, 2, 16) / divisors).amax(dim=1))


def test_a_common_factor_of_the_inputs_changes_nothing(layer: LayerWeights):
    """Activations of a hundred thousand would otherwise end in weights that fp16 cannot hold."""
    source = dict(layer.tensors)
    smooth_outputs(layer, "down_proj", log_normal(96), alpha=0.5)
    expected = layer.tensors["mlp.down_proj.weight"]
    layer.tensors = source
    smooth_outputs(layer, "down_proj", 1e5 * log_normal(96), alpha=0.5)
    assert torch.allclose(layer.tensors["mlp.down_proj.weight"], expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-30, 1e30])
def test_dead_channels_and_outliers_stay_finite(alpha: float, scale: float, layer: LayerWeights):
    layer.tensors["mlp.down_proj.weight"][:, :3] *= scale
    input_max = log_normal(96)
    input_max[2:6] = scale
    smooth_outputs(layer, "down_proj", input_max, alpha)
    assert all(torch.isfinite(tensor).all() for tensor in layer.tensors.values())


def test_dead_channels_stay_as_they_are(layer: LayerWeights):
    layer.tensors["mlp.down_proj.weight"][:, 0] = 0
    input_max = log_normal(96)
    input_max[1] = 0
    before = layer.tensors["mlp.up_proj.weight"]
    smooth_outputs(layer, "down_proj", input_max, alpha=0.3)
    after = layer.tensors["mlp.up_proj.weight"]
    assert torch.equal(after[:2], before[:2])
    assert not torch.isclose(after[2:], before[2:], rtol=1e-6).all(dim=1).any()


def test_a_layer_of_zeros_stays_zero(layer: LayerWeights):
    layer.tensors["mlp.down_proj.weight"].zero_()
    smooth_outputs(layer, "down_proj", torch.zeros(96), alpha=0.1)
    assert all(torch.isfinite(tensor).all() for tensor in layer.tensors.values())
