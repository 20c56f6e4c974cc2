"""Checkpoints of other quantizers, written here in their layouts, against what they stand for."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qoq.engine.checkpoint import Checkpoint
from qoq.engine.cpu.loader import load_decoder
from qoq.engine.models.config import parse_model_config
from qoq.kernels.packing import unpack_codes
from qoq.quantize import import_checkpoint as import_module
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.import_checkpoint import REPORT_NAME, import_checkpoint, open_codes
from qoq.quantize.quantize import quantize_model
from qoq.quantize.weights.channel_weight import ChannelWeight
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

from ..engine.fake_quantization import FakeQuantizedModel
from ..engine.manual_steps import make_runner, random_tokens, run_chunks
from ..engine.test_fake_quantization import MAX_TIES, TOLERANCE, Recorder
from .quantized_hf import (
    Format,
    Linear,
    awq,
    change_tensors,
    compressed,
    gptq,
    qserve,
    write_quantized,
    write_twin,
)
from .quantized_linear import QuantizedLinear, random_linear
from .tiny_hf import write_tiny_hf

UP = "model.layers.1.mlp.up_proj"
CHUNKS = (70, 1, 1)


def whole_ratios(rng: np.random.Generator, shape: tuple[int, int]) -> QuantizedLinear:
    """Groups whose scales are whole multiples of one of their row: ours holds them exactly."""
    linear = random_linear(rng, shape, 32)
    s = rng.integers(1, 9, linear.scales.shape)
    s[:, 0] = 8
    unit = rng.uniform(0.005, 0.01, (shape[0], 1)).astype(np.float16)
    unit = (unit.view(np.uint16) & 0xFFF0).view(np.float16)  # so that products fit float16
    return replace(linear, scales=(s * unit).astype(np.float16))


EXACT = {
    "qserve-g32": qserve(32),
    "qserve-g64": qserve(64),
    "qserve-channel": qserve(-1),
    "awq-channel": awq(-1),
    "awq-whole-ratios": replace(awq(32), draw=whole_ratios),
    "gptq-channel": gptq(-1, symmetric=True),
    "gptq-v2-channel": gptq(-1, version=2),
    "gptq-channel-act-order": gptq(-1, act_order=True),
    "compressed-channel": compressed(-1, symmetric=True),
    "compressed-channel-zero-point": compressed(-1, symmetric=False),
}
FITTED = {
    "awq": awq(32),
    "awq-g64": awq(64),
    "gptq": gptq(32, symmetric=True),
    "gptq-v2": gptq(32, version=2),
    "compressed": compressed(32, symmetric=True),
    "compressed-zero-point": compressed(32, symmetric=False),
}
ROUNDED = {
    "gptq-act-order": gptq(32, act_order=True),
    "compressed-act-order": compressed(32, symmetric=True, act_order=True),
}


def stored_weight(checkpoint: Path, stem: str) -> ChannelWeight | ProgressiveWeight:
    tensors = load_file(checkpoint / "model.safetensors")
    codes, scales = unpack_codes(tensors[f"{stem}.qweight"]), tensors[f"{stem}.scales"]
    if f"{stem}.zeros" in tensors:
        return ChannelWeight(codes, scales, tensors[f"{stem}.zeros"])
    groups = tensors[f"{stem}.group_scales"], tensors[f"{stem}.group_offsets"]
    return ProgressiveWeight(codes, scales, *groups)


def engine_logits(model: Path, vocab_size: int = 96) -> Tensor:
    tokens = random_tokens(sum(CHUNKS), vocab_size)
    return run_chunks(make_runner(model, num_threads=1), tokens, CHUNKS)


def imported(tmp_path: Path, fmt: Format, family: str = "Llama") -> tuple[Path, dict[str, Linear]]:
    linears = write_quantized(tmp_path / "source", fmt, family)
    return import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False), linears


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_imports_give_the_logits_of_the_dequantized_weights(
    tmp_path: Path, name: str, family: str, monkeypatch: pytest.MonkeyPatch
):
    """The reference has float64 weights, from the test's own numbers, and no codes of weights."""
    out, linears = imported(tmp_path, EXACT[name], family)
    reference = FakeQuantizedModel(write_twin(tmp_path / "twin", tmp_path / "source", linears))
    recorder = Recorder(monkeypatch)
    actual = engine_logits(out)
    codes = recorder.codes(num_layers=2)
    expected = reference.logits(random_tokens(sum(CHUNKS), 96), codes)
    assert (actual - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert codes.num_ties <= MAX_TIES * codes.num_codes


@pytest.mark.parametrize("name", EXACT)
def test_exact_imports_store_the_very_numbers(tmp_path: Path, name: str):
    out, linears = imported(tmp_path, EXACT[name])
    for stem, linear in linears.items():
        weight = stored_weight(out, stem)
        if name == "awq-whole-ratios":
            assert torch.equal(weight.codes.long(), torch.from_numpy(linear.codes))
            change = (weight.dequantize() - linear.dequantize()).abs()
            assert (change <= 2.0**-23 * linear.dequantize().abs()).all()
            continue
        assert torch.equal(weight.dequantize(), linear.dequantize())
        scales = torch.from_numpy(linear.scales).float().view(-1)
        assert torch.equal(weight.scales, scales)
    assert worst_error(out) < 1e-6


def worst_error(out: Path) -> float:
    layers = json.loads((out / REPORT_NAME).read_text())["layers"]
    return max(layer["relative_error"] for layer in layers.values())


@pytest.mark.parametrize("name", [*FITTED, *ROUNDED])
def test_the_stated_error_is_the_error(tmp_path: Path, name: str):
    """Kept codes are within 4 %; new ones, which act-order needs, within 9 %."""
    out, linears = imported(tmp_path, (FITTED | ROUNDED)[name])
    report = json.loads((out / REPORT_NAME).read_text())
    assert set(report["layers"]) == set(linears)
    for stem, linear in linears.items():
        weight, exact = stored_weight(out, stem).dequantize().double(), linear.dequantize().double()
        error = ((weight - exact).norm() / exact.norm()).item()
        assert report["layers"][stem]["relative_error"] == pytest.approx(error, rel=1e-4)
        assert report["layers"][stem]["method"] == ("fit" if name in FITTED else "rounding")
        assert error < (0.04 if name in FITTED else 0.09)


@pytest.mark.parametrize("name", [*FITTED, *ROUNDED])
def test_logits_of_inexact_imports_are_as_far_off_as_their_error_explains(
    tmp_path: Path, name: str
):
    """In fp32, against the dequantized model: no further than the worst of five models whose
    weights are off by as much at random, twice for an error that is not quite random."""
    out, linears = imported(tmp_path, (FITTED | ROUNDED)[name])
    twin = write_twin(tmp_path / "twin", tmp_path / "source", linears)
    exact = {stem: linear.dequantize() for stem, linear in linears.items()}
    stored = {stem: stored_weight(out, stem).dequantize() for stem in linears}
    expected = engine_logits(twin)

    def distance(weights: dict[str, Tensor]) -> float:
        change_tensors(twin, lambda t: t.update({f"{s}.weight": w for s, w in weights.items()}))
        return (engine_logits(twin) - expected).norm().item()

    generator = torch.Generator().manual_seed(0)

    def off_by_as_much(stem: str) -> Tensor:
        noise = torch.randn(exact[stem].shape, generator=generator)
        return exact[stem] + noise * (stored[stem] - exact[stem]).norm() / noise.norm()

    others = [distance({stem: off_by_as_much(stem) for stem in linears}) for _ in range(5)]
    assert distance(stored) < 2 * max(others)
    assert distance(exact) == 0


@pytest.mark.parametrize("name", [*FITTED, *ROUNDED])
def test_the_engine_runs_inexact_imports_as_they_are_stored(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    out, _ = imported(tmp_path, (FITTED | ROUNDED)[name])
    recorder = Recorder(monkeypatch)
    actual = engine_logits(out)
    codes = recorder.codes(num_layers=2)
    expected = FakeQuantizedModel(out).logits(random_tokens(sum(CHUNKS), 96), codes)
    assert (actual - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", EXACT | FITTED | ROUNDED)
def test_a_dense_precision_exports_the_dequantized_model(tmp_path: Path, name: str):
    linears = write_quantized(tmp_path / "source", (EXACT | FITTED | ROUNDED)[name])
    out = quantize_model(tmp_path / "source", tmp_path / "out", precision="fp32", progress=False)
    twin = write_twin(tmp_path / "twin", tmp_path / "source", linears)
    actual, expected = (load_file(path / "model.safetensors") for path in (out, twin))
    assert set(actual) == set(expected)
    for tensor_name, tensor in expected.items():
        assert torch.equal(actual[tensor_name], tensor), tensor_name
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


def test_all_that_is_not_quantized_passes_through(tmp_path: Path):
    write_quantized(tmp_path / "source", awq(32), "Qwen2")
    change_tensors(
        tmp_path / "source",
        lambda tensors: tensors.update(
            {name: t.half() for name, t in tensors.items() if t.dtype == torch.float32}
        ),
    )
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    out = import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False)
    source, stored = (load_file(path / "model.safetensors") for path in (tmp_path / "source", out))
    kept = [name for name in stored if name.endswith((".weight", ".bias"))]
    assert len(kept) == 3 + 2 * (2 + 3)
    for name in kept:
        assert stored[name].dtype == torch.float16 and torch.equal(stored[name], source[name])
    assert (out / "tokenizer.json").read_text() == "{}"
    assert (out / "generation_config.json").exists()


def test_the_config_is_ours_and_loads(tmp_path: Path):
    out, _ = imported(tmp_path, awq(64))
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config") == {
        "quant_method": "qoq",
        "format_version": 1,
        "precision": "w4a8kv4",
        "group_size": 64,
    }
    source = json.loads((tmp_path / "source" / "config.json").read_text())
    source.pop("quantization_config")
    assert config == source
    checkpoint = Checkpoint(out)
    load_decoder(checkpoint, parse_model_config(checkpoint.config), checkpoint.precision, 128)


@pytest.mark.parametrize("group_size", [32, -1])
def test_a_layer_left_in_16_bits_is_rounded_and_stated(tmp_path: Path, group_size: int):
    linears = write_quantized(tmp_path / "source", awq(group_size))
    dense = linears[UP].dequantize().half()

    def change(tensors: dict[str, Tensor]) -> None:
        for suffix in ("qweight", "qzeros", "scales"):
            del tensors[f"{UP}.{suffix}"]
        tensors[f"{UP}.weight"] = dense

    change_tensors(tmp_path / "source", change)
    out = import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False)
    layers = json.loads((out / REPORT_NAME).read_text())["layers"]
    assert [stem for stem, layer in layers.items() if layer["method"] == "rounding"] == [UP]
    restored = stored_weight(out, UP).dequantize()
    error = (restored - dense.float()).norm() / dense.float().norm()
    assert layers[UP]["relative_error"] == pytest.approx(error.item())


def test_the_log_states_every_layer_and_the_worst(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger=import_module.__name__):
        out, linears = imported(tmp_path, awq(32))
    for stem in linears:
        assert f"{stem}: fit, relative error 0.0" in caplog.text
    assert f"imported {len(linears)} linear layers from awq ({len(linears)} by fit)" in caplog.text
    assert f"{100 * worst_error(out):.2f} % at most (model.layers." in caplog.text
    assert "rounded to new" not in caplog.text


def test_the_log_advises_against_act_order(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    imported(tmp_path, gptq(32, act_order=True))
    assert "14 layers had groups out of order (act-order)" in caplog.text


def test_two_imports_are_bit_equal(tmp_path: Path):
    write_quantized(tmp_path / "source", awq(32))
    for name in "ab":
        import_checkpoint(tmp_path / "source", tmp_path / name, progress=False)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_zero_point_of_16_a_channel_is_refused_by_name(tmp_path: Path):
    write_quantized(tmp_path / "source", gptq(-1))
    name = f"{UP}.qzeros"
    change_tensors(tmp_path / "source", lambda tensors: tensors[name].fill_(-1))
    with pytest.raises(ModelSourceError, match=rf"{UP}\.weight: a zero point of 16.*give the 16"):
        import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_nan_and_infinity_beside_the_codes_are_refused_by_name(
    tmp_path: Path, name: str, value: float
):
    write_quantized(tmp_path / "source", awq(32))
    change_tensors(tmp_path / "source", lambda tensors: tensors[name].view(-1)[3].fill_(value))
    with pytest.raises(ModelSourceError, match=rf"tensor {name} holds NaN or infinite values"):
        import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_interrupted_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_quantized(tmp_path / "source", awq(32))

    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module.CheckpointWriter, "end_layer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_has_no_codes_is_refused(tmp_path: Path):
    folder = write_tiny_hf(tmp_path / "model")
    assert open_codes(folder) is None
    with pytest.raises(ModelSourceError, match="holds no codes of another quantizer; quantize it"):
        import_checkpoint(folder, tmp_path / "out", progress=False)


def test_shards_are_read(tmp_path: Path):
    """Layers of 8B models lie in several files; each tensor of a layer may be in another."""
    linears = write_quantized(tmp_path / "source", awq(32))
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "model.safetensors").unlink()
    files = {name: f"part-{i % 3}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in tensors if files[name] == file}
        save_file(part, tmp_path / "source" / file)
    index = tmp_path / "source" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    out = import_checkpoint(tmp_path / "source", tmp_path / "out", progress=False)
    assert set(json.loads((out / REPORT_NAME).read_text())["layers"]) == set(linears)
