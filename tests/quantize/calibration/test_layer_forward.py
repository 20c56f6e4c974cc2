"""A chain of layers equals the engine's decoder, on every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qoq.engine.precision import PRECISIONS, Precision
from qoq.kernels.rms_norm import rms_norm
from qoq.quantize.calibration.layer_forward import LayerForward
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe

from ...engine.manual_steps import make_runner, run_chunks
from ..transforms.tiny_decoder import FAMILIES, TOKENS, TOLERANCE, TinyDecoder, relative_error

LENGTH = len(TOKENS)
FP32 = PRECISIONS["fp32"]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def chain(decoder: TinyDecoder, precision: Precision) -> Tensor:
    """Logits [T, V]."""
    forward = LayerForward.of(decoder.config, precision, LENGTH)
    hidden = decoder.embedding[torch.tensor([TOKENS])]
    for layer in decoder.layers:
        hidden = forward(layer, hidden).output
    return rms_norm(hidden[0], decoder.final_gain, decoder.config.rms_norm_eps) @ decoder.head.T


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_engines(family: str, tmp_path: Path):
    decoder = TinyDecoder.make(tmp_path / "model", family)
    assert relative_error(chain(decoder, FP32), decoder.logits(tmp_path / "engine")) < TOLERANCE


@pytest.mark.parametrize("name", ["w4a8kv4", "w8a8kv8"])
def test_rounds_activations_keys_and_values_as_the_engine_does(name: str, tmp_path: Path):
    """A code on the other side of a tie is one of thousands; without rounding all would differ."""
    decoder = TinyDecoder.make(tmp_path / "model", "llama")
    folder = quantize_model(
        tmp_path / "model", tmp_path / "out", precision=name, recipe=Recipe(group_size=32)
    )
    engine = run_chunks(make_runner(folder, num_threads=1), TOKENS, (LENGTH,))
    for layer in decoder.layers:
        dequantize(layer, folder)
    rounded, exact = chain(decoder, PRECISIONS[name]), chain(decoder, FP32)
    assert (rounded - engine).norm() < 0.1 * (exact - engine).norm()


def dequantize(layer: LayerWeights, folder: Path) -> None:
    """What ``folder`` stores, in place of the layer's weights."""
    from ...engine.fake_quantization import FakeQuantizedModel

    stored = FakeQuantizedModel(folder)
    for name in [name for name in layer.tensors if "proj.weight" in name]:
        weight = stored.weight(layer.prefix + name.removesuffix(".weight"))
        layer.tensors[name] = weight.float()


def test_samples_do_not_see_each_other(tmp_path: Path):
    decoder = TinyDecoder.make(tmp_path, "mistral-window")
    hidden = torch.randn(3, 80, 64, generator=torch.Generator().manual_seed(0))
    forward = LayerForward.of(decoder.config, FP32, 80, max_samples=3)
    together = forward(decoder.layers[0], hidden)
    for i in range(3):
        alone = forward(decoder.layers[0], hidden[i : i + 1])
        assert relative_error(together.output[i], alone.output[0]) < TOLERANCE


def test_a_sample_may_begin_anywhere(tmp_path: Path):
    """Attention depends on distances alone: the third sample's keys are turned further, its output
    stays. Past the model's 512 positions samples begin at 0 again.
    """
    decoder = TinyDecoder.make(tmp_path, "llama")
    hidden = torch.randn(1, 100, 64, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1)
    trace = LayerForward.of(decoder.config, FP32, 100, max_samples=6)(decoder.layers[0], hidden)
    keys = trace.keys.unflatten(0, (6, 100))
    assert relative_error(keys[2], keys[0]) > 0.1
    assert torch.equal(keys[5], keys[0])
    for i in range(6):
        assert relative_error(trace.output[i], trace.output[0]) < TOLERANCE
