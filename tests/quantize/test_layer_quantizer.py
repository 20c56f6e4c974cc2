from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qoq.engine.precision import PRECISIONS
from qoq.quantize.calibration.statistics import Samples
from qoq.quantize.layer_quantizer import LayerQuantizer, QuantizedLayer
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.recipe import Recipe
from qoq.quantize.sources.model_source import LINEAR_PARTS
from qoq.quantize.weights.channel_weight import ChannelWeight, round_to_channels
from qoq.quantize.weights.int8_weight import Int8Weight, round_to_int8
from qoq.quantize.weights.progressive_weight import ProgressiveWeight, round_to_groups

from .transforms.tiny_decoder import TinyDecoder

NAMES = [f"{part}.weight" for part in LINEAR_PARTS]
GROUPS = dict.fromkeys(NAMES, 32)
HIDDEN = torch.randn(10, 40, 64, generator=torch.Generator().manual_seed(0))
FULL = Recipe(
    fold_norms=True,
    rotate=True,
    rotate_heads=True,
    align_keys=True,
    smooth_attention=0.5,
    smooth_outputs=0.2,
    reorder=True,
    clip=True,
    gptq=True,
)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def layer(tmp_path: Path) -> LayerWeights:
    return TinyDecoder.make(tmp_path, "qwen2-bias").layers[0]


def quantize(
    layer: LayerWeights,
    recipe: Recipe,
    hidden: Tensor | None = HIDDEN,
    *,
    precision: str = "w4a8kv4",
    groups: dict[str, int] = GROUPS,
) -> tuple[LayerWeights, QuantizedLayer]:
    """The transformed layer and what was made of it; ``layer`` stays."""
    quantizer = LayerQuantizer(layer.config, recipe, PRECISIONS[precision], groups)
    changed = replace(layer, tensors=dict(layer.tensors))
    return changed, quantizer(changed, hidden)


def test_without_calibration_weights_are_rounded_to_nearest(layer: LayerWeights):
    forms = {
        ("w4a8kv4", 32): lambda weight: round_to_groups(weight, 32),
        ("w4a8kv4", 0): round_to_channels,
        ("w8a8kv8", 0): round_to_int8,
    }
    for (precision, size), rounding in forms.items():
        groups = GROUPS if size else {}
        _, result = quantize(layer, Recipe(), None, precision=precision, groups=groups)
        assert list(result.weights) == NAMES
        assert result.output is None
        for name, weight in result.weights.items():
            for suffix, tensor in rounding(layer.tensors[name]).tensors().items():
                assert torch.equal(weight.tensors()[suffix], tensor)
            change = weight.dequantize() - layer.tensors[name]
            expected = (change.norm() / layer.tensors[name].norm()).item()
            assert result.errors[name] == pytest.approx(expected)


@pytest.mark.parametrize("recipe", [Recipe(clip=True), Recipe(gptq=True), FULL])
@pytest.mark.parametrize("groups", [GROUPS, {}])
def test_the_next_layer_reads_what_the_rounded_weights_give(
    recipe: Recipe, groups: dict[str, int], layer: LayerWeights
):
    changed, result = quantize(layer, recipe, groups=groups)
    stored = {name: weight.dequantize() for name, weight in result.weights.items()}
    rounded = replace(changed, tensors=changed.tensors | stored)
    samples = Samples.of(layer.config, PRECISIONS["w4a8kv4"], HIDDEN)
    assert torch.equal(result.output, samples.output(rounded))
    kind = ProgressiveWeight if groups else ChannelWeight
    assert all(isinstance(weight, kind) for weight in result.weights.values())


@pytest.mark.parametrize("groups", [GROUPS, {}])
def test_errors_are_those_of_outputs_and_fall_from_technique_to_technique(
    groups: dict[str, int], layer: LayerWeights
):
    """Clipping looks at the output error, GPTQ makes up for it besides."""
    _, clipped = quantize(layer, Recipe(clip=True), groups=groups)
    _, gptq = quantize(layer, Recipe(clip=True, gptq=True), groups=groups)
    grams = Samples.of(layer.config, PRECISIONS["w4a8kv4"], HIDDEN).grams(layer)
    _, nearest = quantize(layer, Recipe(), None, groups=groups)
    total = {"nearest": 0.0, "clip": 0.0, "gptq": 0.0}
    for name in NAMES:
        total["clip"] += clipped.errors[name]
        total["gptq"] += gptq.errors[name]
    down = layer.tensors["mlp.down_proj.weight"]
    change = clipped.weights["mlp.down_proj.weight"].dequantize() - down
    ratio = norm(change, grams["down_input"]) / norm(down, grams["down_input"])
    assert clipped.errors["mlp.down_proj.weight"] == pytest.approx(ratio, rel=1e-4)
    change = nearest.weights["mlp.down_proj.weight"].dequantize() - down
    assert norm(change, grams["down_input"]) / norm(down, grams["down_input"]) > ratio
    assert total["gptq"] < total["clip"]


def norm(weight: Tensor, gram: Tensor) -> float:
    """Of the outputs."""
    return ((weight @ gram) * weight).sum().sqrt().item()


def test_eight_bits_are_rounded_to_nearest_after_the_transforms(layer: LayerWeights):
    changed, result = quantize(layer, FULL, precision="w8a8kv8", groups={})
    for name, weight in result.weights.items():
        assert isinstance(weight, Int8Weight)
        assert torch.equal(weight.codes, round_to_int8(changed.tensors[name]).codes)


def test_a_dense_precision_is_transformed_and_not_rounded(layer: LayerWeights):
    changed, result = quantize(layer, FULL, precision="fp32", groups={})
    assert not result.weights and not result.errors
    samples = Samples.of(layer.config, PRECISIONS["fp32"], HIDDEN)
    assert torch.equal(result.output, samples.output(changed))
    assert not torch.equal(changed.tensors["mlp.up_proj.weight"], layer.tensors[NAMES[5]])


def test_the_same_bits_come_out_twice(layer: LayerWeights):
    (_, first), (_, second) = quantize(layer, FULL), quantize(layer, FULL)
    assert torch.equal(first.output, second.output)
    assert first.errors == second.errors
    for name in NAMES:
        for suffix, tensor in first.weights[name].tensors().items():
            assert torch.equal(tensor, second.weights[name].tensors()[suffix])


def test_zero_and_constant_weights_and_dead_inputs_stay_finite(layer: LayerWeights):
    """A dead MLP channel, a head of zeros, a constant row, an outlier of a thousand."""
    tensors = layer.tensors
    tensors["mlp.up_proj.weight"][3] = 0
    tensors["mlp.down_proj.weight"][5] = 0.25
    tensors["self_attn.v_proj.weight"][:16] = 0
    tensors["self_attn.v_proj.bias"][:16] = 0
    tensors["self_attn.k_proj.weight"][:16] = 0
    tensors["self_attn.k_proj.bias"][:16] = 0
    tensors["mlp.gate_proj.weight"][0, 0] = 1000
    for groups in (GROUPS, {}):
        _, result = quantize(layer, FULL, groups=groups)
        assert torch.isfinite(result.output).all()
        for weight in result.weights.values():
            weight.tensors()  # asserts that the integers are legal
            assert torch.isfinite(weight.dequantize()).all()
