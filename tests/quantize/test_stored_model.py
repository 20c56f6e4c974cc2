"""What a recipe stores, against the model it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qoq.quantize.calibration.token_windows import TokenWindows
from qoq.quantize.layer_quantizer import LayerQuantizer, QuantizedLayer
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import CalibrationSpec, Recipe
from qoq.quantize.sources.model_source import is_decoder_linear
from qoq.quantize.weights.channel_weight import round_to_channels
from qoq.quantize.weights.int8_weight import round_to_int8
from qoq.quantize.weights.progressive_weight import round_to_groups

from ..engine.manual_steps import make_runner, random_tokens, run_chunks
from ..engine.tiny_model import write_tiny_model
from .tiny_hf import write_tiny_hf
from .transforms.tiny_decoder import FAMILIES, TOLERANCE, relative_error

TOKENS = random_tokens(100, vocab_size=96)
# Every transform, so that the weights have nothing in common with the source's.
TRANSFORMS = Recipe(
    group_size=32,
    fold_norms=True,
    rotate=True,
    rotate_heads=True,
    smooth_attention=0.5,
    smooth_outputs=0.3,
    reorder=True,
    calibration=CalibrationSpec(num_samples=4, length=16),
)
ROUND = {
    ("w4a8kv4", 32): lambda weight: round_to_groups(weight, 32),
    ("w4a8kv4", -1): round_to_channels,
    ("w8a8kv8", 128): round_to_int8,
}


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def logits(folder: Path) -> Tensor:
    runner = make_runner(folder, precision="fp32", num_threads=1)
    return run_chunks(runner, TOKENS, (len(TOKENS) - 3, 1, 1, 1))


@pytest.mark.parametrize("form", ROUND)
def test_without_techniques_every_linear_is_rounded_to_nearest_bit_for_bit(
    tmp_path: Path, form: tuple[str, int]
):
    precision, group_size = form
    folder = write_tiny_hf(tmp_path / "model", "Qwen2")
    recipe = Recipe(group_size=group_size, int8_lm_head=True)
    out = quantize_model(
        folder, tmp_path / "out", precision=precision, recipe=recipe, progress=False
    )
    expected = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem = name.removesuffix("weight")
        if is_decoder_linear(name):
            parts = ROUND[form](tensor.float()).tensors()
        else:
            parts = round_to_int8(tensor.float()).tensors() if "lm_head" in name else {"": tensor}
        expected |= {(stem if suffix else name) + suffix: part for suffix, part in parts.items()}
    stored = load_file(out / "model.safetensors")
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dense_checkpoint_is_transformed_and_computes_the_same(tmp_path: Path, family: str):
    name, overrides = FAMILIES[family]
    source = write_tiny_model(tmp_path / "model", name, **overrides)
    out = quantize_model(
        source, tmp_path / "out", precision="fp32", recipe=TRANSFORMS, progress=False
    )
    assert relative_error(logits(out), logits(source)) < TOLERANCE
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert not any(torch.equal(before[name], after[name]) for name in before if "_proj.w" in name)
    assert "lm_head.weight" in after
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_calibration_flows_from_the_embedding_through_every_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write_tiny_model(tmp_path / "model")
    call = LayerQuantizer.__call__
    flow: list[tuple[Tensor, QuantizedLayer]] = []

    def record(self: LayerQuantizer, layer: LayerWeights, hidden: Tensor) -> QuantizedLayer:
        flow.append((hidden, call(self, layer, hidden)))
        return flow[-1][1]

    monkeypatch.setattr(LayerQuantizer, "__call__", record)
    windows = TokenWindows(torch.tensor([TOKENS[:16], TOKENS[16:32]]), "here")
    out = quantize_model(
        source, tmp_path / "out", precision="fp32", recipe=TRANSFORMS, calib=windows, progress=False
    )
    embedding = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(flow[0][0], embedding[windows.ids])
    assert flow[1][0] is flow[0][1].output


def test_a_tied_head_is_stored_in_16_bits_once_it_differs(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model", tie_word_embeddings=True)
    recipe = Recipe(group_size=32, fold_norms=True)
    out = quantize_model(folder, tmp_path / "out", recipe=recipe, progress=False)
    stored = load_file(out / "model.safetensors")
    assert stored["lm_head.weight"].dtype == torch.bfloat16
    assert torch.equal(stored["model.norm.weight"], torch.ones(64, dtype=torch.bfloat16))
