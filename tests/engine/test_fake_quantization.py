"""Quantized logits equal those of a separately written model that only pretends to be quantized."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qoq.engine.cpu import linear
from qoq.kernels import kv_cache
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe

from .fake_quantization import Codes, FakeQuantizedModel
from .manual_steps import make_runner, random_tokens, run_chunks
from .tiny_model import write_tiny_model

# Relative to the largest logit; fp32 rounds at 6e-8 and some hundred roundings lie behind a logit.
TOLERANCE = 1e-5
# Activations that become codes leave their rounding errors behind; others carry them through all
# layers, as they do in test_hugging_face.py.
DENSE_TOLERANCE = 1e-4
# The share of codes that may lie beyond a tie: errors of 1e-6 of 127 steps, to both sides of it.
MAX_TIES = 2 * 127 * 1e-6

FORMATS = {
    "per-group": {"precision": "w4a8kv4", "recipe": Recipe(group_size=32)},
    "per-channel": {"precision": "w4a8kv4", "recipe": Recipe(group_size=-1)},
    "int8-lm-head": {"precision": "w4a8kv4", "recipe": Recipe(group_size=32, int8_lm_head=True)},
    "w8a8kv8": {"precision": "w8a8kv8"},
}
# What the reference quantizes activations and cache to, where that is not 8 and 4 bits.
NUMBERS = {
    "w8a8kv8": {"levels": 255},
    "w4a4": {"max_code": 7},
    "w16a16kv4": {"max_code": None},
}


class Recorder:
    """Listens to the two functions through which all codes pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gemm_inputs: list[Tensor] = []
        self._kv: list[tuple[Tensor, Tensor]] = []
        int8_gemm, quantize_kv = linear.int8_gemm, kv_cache.quantize_kv

        def recording_gemm(x, *args):
            self._gemm_inputs.append(x.codes.clone())
            return int8_gemm(x, *args)

        def recording_kv(kv, bits):
            self._kv.append(quantize_kv(kv, bits))
            return self._kv[-1]

        monkeypatch.setattr(linear, "int8_gemm", recording_gemm)
        monkeypatch.setattr(kv_cache, "quantize_kv", recording_kv)

    def codes(self, num_layers: int, has_int8_head: bool = False) -> Codes:
        """Of all steps, put together along the tokens."""
        num_inputs = 4 * num_layers + has_int8_head if self._gemm_inputs else 0
        inputs = [torch.cat(self._gemm_inputs[i::num_inputs]) for i in range(num_inputs)]
        cache = [
            tuple(torch.cat(parts) for parts in zip(*self._kv[i::num_layers], strict=True))
            for i in range(num_layers)
        ]
        layers = [inputs[4 * i : 4 * i + 4] for i in range(num_layers)]
        return Codes(layers, cache, inputs[-1] if has_int8_head else None)


def check_equal(
    checkpoint: Path,
    precision: str,
    chunks: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    **settings: object,
) -> None:
    runner = make_runner(checkpoint, precision=precision, **settings)
    recorder = Recorder(monkeypatch)
    reference = FakeQuantizedModel(checkpoint, **NUMBERS.get(precision, {}))
    tokens = random_tokens(sum(chunks), reference.config["vocab_size"])
    actual = run_chunks(runner, tokens, chunks)
    codes = recorder.codes(reference.config["num_hidden_layers"], reference.has_int8_head)
    expected = reference.logits(tokens, codes)
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error < (TOLERANCE if reference.max_code else DENSE_TOLERANCE)
    assert codes.num_ties <= MAX_TIES * codes.num_codes


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("name", FORMATS)
def test_logits_equal(name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails for a wrong code, scale, zero point or group, and for a cache read unquantized."""
    dense = write_tiny_model(tmp_path / "dense", family)
    checkpoint = quantize_model(dense, tmp_path / name, progress=False, **FORMATS[name])
    precision = FORMATS[name]["precision"]
    check_equal(checkpoint, precision, (130, 67, 1, 1), monkeypatch, num_threads=1)


def test_logits_equal_with_4_bit_activations(tiny_quantized: Path, monkeypatch: pytest.MonkeyPatch):
    check_equal(tiny_quantized, "w4a4", (130, 67, 1, 1), monkeypatch, num_threads=1)


def test_logits_equal_where_only_the_cache_is_quantized(
    tiny_dense: Path, monkeypatch: pytest.MonkeyPatch
):
    check_equal(tiny_dense, "w16a16kv4", (130, 67, 1, 1), monkeypatch, num_threads=1)


@pytest.mark.parametrize("name", ["per-group", "per-channel"])
def test_logits_of_4_bit_weights_alone_are_those_of_a_dense_model(
    name: str, tiny_dense: Path, tmp_path: Path
):
    """Of one with the dequantized weights, in fp32. Rounded activations would be 1e-2 off."""
    checkpoint = quantize_model(tiny_dense, tmp_path / name, progress=False, **FORMATS[name])
    tensors = load_file(tiny_dense / "model.safetensors")
    weights = FakeQuantizedModel(checkpoint)
    for key in tensors:
        if f"{key.removesuffix('weight')}qweight" in weights.tensors:
            tensors[key] = weights.weight(key.removesuffix(".weight")).float()
    dense = shutil.copytree(tiny_dense, tmp_path / "dequantized")
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    tokens, chunks = random_tokens(197, 96), (130, 67)
    expected = run_chunks(make_runner(dense, num_threads=1), tokens, chunks)
    runner = make_runner(checkpoint, precision="w4a16", num_threads=1)
    error = (run_chunks(runner, tokens, chunks) - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE


def test_logits_equal_with_mixed_group_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """128 where it divides K, 64 and 32 elsewhere, as in SmolLM2."""
    dense = write_tiny_model(
        tmp_path / "dense", hidden_size=128, intermediate_size=192, head_dim=24
    )
    checkpoint = quantize_model(dense, tmp_path / "mixed", progress=False)
    tensors = load_file(checkpoint / "model.safetensors")
    sizes = {
        name: 2 * tensors[f"model.layers.0.{name}.qweight"].shape[1] // groups.shape[1]
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
        for groups in [tensors[f"model.layers.0.{name}.group_scales"]]
    }
    assert sizes == {"self_attn.q_proj": 128, "self_attn.o_proj": 32, "mlp.down_proj": 64}
    check_equal(checkpoint, "w4a8kv4", (70, 1), monkeypatch, num_threads=1)


@pytest.mark.slow
def test_logits_of_smollm2_equal(smollm2_quantized: Path, monkeypatch: pytest.MonkeyPatch):
    check_equal(smollm2_quantized, "w4a8kv4", (70, 29, 1), monkeypatch)
