from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qoq.engine.precision import PRECISIONS
from qoq.quantize.calibration.statistics import Samples
from qoq.quantize.layer_transform import LayerTransform
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.recipe import Recipe

from .transforms.tiny_decoder import FAMILIES, TOLERANCE, TinyDecoder, relative_error

HIDDEN = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0))
CALIBRATED: dict[str, dict[str, Any]] = {
    "align": {"align_keys": True},
    "smooth-attention": {"smooth_attention": 0.5},
    "smooth-outputs": {"smooth_outputs": 0.2},
    "reorder": {"reorder": True},
}
FREE: dict[str, dict[str, Any]] = {
    "none": {},
    "fold": {"fold_norms": True},
    "rotate": {"fold_norms": True, "rotate": True},
    "rotate-heads": {"rotate_heads": True},
}
EVERYTHING = {name: value for part in (FREE | CALIBRATED).values() for name, value in part.items()}
TECHNIQUES = FREE | CALIBRATED | {"everything": EVERYTHING}


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def transformed(layer: LayerWeights, recipe: Recipe, hidden: Tensor) -> tuple[LayerWeights, Tensor]:
    """A changed copy of the layer, and its output, turned back where the recipe rotates."""
    transform, turn = LayerTransform.of(recipe, layer.config), torch.eye(64)
    if transform.rotation is not None:
        turn = transform.rotation.rotate_inputs(turn)
    samples = Samples.of(layer.config, PRECISIONS["fp32"], hidden @ turn)
    changed = replace(layer, tensors=dict(layer.tensors))
    transform(changed, samples if recipe.needs_calibration else None)
    return changed, samples.output(changed) @ turn.T


@pytest.mark.parametrize("family", ["llama", "mistral-window", "qwen2-bias", "qwen3-qk-norm"])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_output_stays(technique: str, family: str, tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, family).layers[0]
    before = Samples.of(layer.config, PRECISIONS["fp32"], HIDDEN).output(layer)
    _, output = transformed(layer, Recipe(**TECHNIQUES[technique]), HIDDEN)
    assert relative_error(output, before) < TOLERANCE


@pytest.mark.parametrize("technique", [name for name in TECHNIQUES if name != "none"])
def test_every_technique_changes_something(technique: str, tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]
    changed, _ = transformed(layer, Recipe(**TECHNIQUES[technique]), HIDDEN)
    assert any(
        not torch.equal(changed.tensors[name], layer.tensors[name]) for name in layer.tensors
    )


def test_keys_are_smoothed_by_what_they_are_after_alignment(tmp_path: Path):
    """With alpha 1 the larger channel of every pair reaches 1, whatever was turned before."""
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]
    recipe = Recipe(align_keys=True, smooth_attention=1.0)
    changed, _ = transformed(layer, recipe, HIDDEN)
    trace = Samples.of(layer.config, PRECISIONS["fp32"], HIDDEN).trace(changed)
    largest = trace.keys.abs().amax(dim=0).unflatten(-1, (2, -1)).amax(dim=-2)
    assert torch.allclose(largest, torch.ones_like(largest), rtol=1e-5)


def test_channels_are_ordered_by_what_they_are_after_smoothing(tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]
    changed, _ = transformed(layer, Recipe(smooth_outputs=0.2, reorder=True), HIDDEN)
    trace = Samples.of(layer.config, PRECISIONS["fp32"], HIDDEN).trace(changed)
    largest = trace.down_input.abs().amax(dim=0)
    assert (largest.diff() <= 1e-5 * largest[0]).all()


def test_all_families_pass_through_everything(tmp_path: Path):
    for family in FAMILIES:
        layer = TinyDecoder.make(tmp_path / family, family).layers[1]
        hidden = torch.randn(2, 20, layer.config.hidden_size)
        samples = Samples.of(layer.config, PRECISIONS["fp32"], hidden)
        LayerTransform.of(Recipe(**EVERYTHING), layer.config)(layer, samples)
        assert all(torch.isfinite(tensor).all() for tensor in layer.tensors.values())
