"""Projections of one input become one weight in the kernels' order, biases one vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qoq.engine.checkpoint import Checkpoint, CheckpointError
from qoq.engine.models.config import parse_model_config
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe

from ..tiny_model import SHAPE, write_tiny_model

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.engine.gpu.layers import W4A8Linear, W8A8Linear
from qoq.engine.gpu.loader import GpuLoader
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.gpu.gemm.w4a8_weight import pack_per_channel, pack_per_group

CPU = torch.device("cpu")
NAME, HIDDEN = "model.layers.0.self_attn", SHAPE["hidden_size"]
MLP, GATE_UP = "model.layers.0.mlp", ("gate_proj", "up_proj")
QKV = {"q_proj": 64, "k_proj": 32, "v_proj": 32}
FORMATS = {
    "per-group": ("w4a8kv4", Recipe(group_size=32, int8_lm_head=True)),
    "per-channel": ("w4a8kv4", Recipe(group_size=-1, int8_lm_head=True)),
    "w8a8": ("w8a8kv8", Recipe(int8_lm_head=True)),
}


def loader_of(folder: Path) -> GpuLoader:
    source = Checkpoint(folder)
    config, precision = parse_model_config(source.config), source.precision_for(None)
    return GpuLoader(source, config, precision, CPU, torch.float16, W4A8Gemm(CPU, arch=80))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases of q, k and v."""
    return write_tiny_model(tmp_path_factory.mktemp("qwen2") / "dense", "Qwen2")


@pytest.fixture(scope="module")
def checkpoints(dense: Path) -> dict[str, Path]:
    return {
        name: quantize_model(
            dense, dense.parent / name, precision=precision, recipe=recipe, progress=False
        )
        for name, (precision, recipe) in FORMATS.items()
    }


def joined(tensors: dict[str, Tensor], kind: str) -> Tensor:
    return torch.cat([tensors[f"{NAME}.{part}.{kind}"] for part in QKV])


@pytest.mark.parametrize("name", FORMATS)
def test_qkv_is_one_weight_with_one_bias(checkpoints: dict[str, Path], name: str):
    tensors = load_file(checkpoints[name] / "model.safetensors")
    linear = loader_of(checkpoints[name]).fused(NAME, QKV, HIDDEN)
    assert torch.equal(linear.bias, joined(tensors, "bias").half())
    scales = joined(tensors, "scales")
    if name == "w8a8":
        assert isinstance(linear, W8A8Linear)
        assert torch.equal(linear.weight, joined(tensors, "weight"))
        assert torch.equal(linear.scales, scales)
        return
    assert isinstance(linear, W4A8Linear)
    codes = joined(tensors, "qweight")
    if name == "per-group":
        groups = joined(tensors, "group_scales"), joined(tensors, "group_offsets")
        expected = pack_per_group(codes, scales, *groups)
    else:
        expected = pack_per_channel(codes, scales, joined(tensors, "zeros"))
    assert torch.equal(linear.weight.boxes, expected.boxes)


def test_a_projection_without_bias_has_none(checkpoints: dict[str, Path]):
    linear = loader_of(checkpoints["per-group"]).fused(NAME, {"o_proj": HIDDEN}, 64)
    assert linear.bias is None


def changed(folder: Path, to: Path, **tensors: Tensor | None) -> Path:
    """A copy; tensors of None are left out."""
    to.mkdir()
    (to / "config.json").write_text((folder / "config.json").read_text())
    kept = load_file(folder / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in kept.items() if tensor is not None}
    save_file(kept, to / "model.safetensors")
    return to


def test_a_bias_that_some_projections_lack_is_refused(checkpoints: dict[str, Path], tmp_path: Path):
    folder = changed(checkpoints["per-group"], tmp_path / "m", **{f"{NAME}.k_proj.bias": None})
    with pytest.raises(CheckpointError, match="self_attn: either all of .*k_proj.* have a bias or"):
        loader_of(folder).load(64)


@pytest.mark.parametrize(("name", "size"), [("per-group", 32), ("per-channel", 8)])
def test_rows_and_biases_of_gate_and_up_are_paired(
    checkpoints: dict[str, Path], tmp_path: Path, name: str, size: int
):
    tensors = mlp_tensors(checkpoints[name], size)
    biases = {f"{MLP}.{part}.bias": torch.randn(size) for part in GATE_UP}
    folder = changed(checkpoints[name], tmp_path / "m", **tensors, **biases)
    linear = loader_of(folder).fused(MLP, dict.fromkeys(GATE_UP, size), HIDDEN)
    assert linear.is_gated
    scales = torch.stack([tensors[f"{MLP}.{part}.scales"] for part in GATE_UP])
    bias = torch.stack(list(biases.values())).half()
    for channel in range(size):
        place = channel // 8 * 16 + channel % 8
        for row, at in enumerate((place, place + 8)):
            assert linear.weight.scales[at] == scales[row, channel]
            assert linear.bias[at] == bias[row, channel]


@pytest.mark.parametrize(("name", "size"), [("per-channel", 12), ("w8a8", 16)])
def test_what_cannot_be_paired_is_not(
    checkpoints: dict[str, Path], tmp_path: Path, name: str, size: int
):
    """Twelve channels are not whole eights, and INT8 weights stay as they are."""
    tensors = mlp_tensors(checkpoints[name], size)
    folder = changed(checkpoints[name], tmp_path / "m", **tensors)
    linear = loader_of(folder).fused(MLP, dict.fromkeys(GATE_UP, size), HIDDEN)
    assert not linear.is_gated
    scales = linear.scales if name == "w8a8" else linear.weight.scales
    assert torch.equal(scales, torch.cat([tensors[f"{MLP}.{part}.scales"] for part in GATE_UP]))


def mlp_tensors(folder: Path, size: int) -> dict[str, Tensor]:
    """The first channels of gate and of up."""
    tensors = load_file(folder / "model.safetensors")
    return {
        name: tensor[:size].clone()
        for name, tensor in tensors.items()
        if name.startswith(tuple(f"{MLP}.{part}" for part in GATE_UP))
    }


def test_weights_out_of_range_are_refused_by_name(checkpoints: dict[str, Path], tmp_path: Path):
    name = f"{NAME}.q_proj.group_offsets"
    offsets = load_file(checkpoints["per-group"] / "model.safetensors")[name]
    folder = changed(
        checkpoints["per-group"], tmp_path / "m", **{name: torch.full_like(offsets, 127)}
    )
    with pytest.raises(CheckpointError, match="m: model.layers.0.self_attn: group_offsets: "):
        loader_of(folder).load(64)


def test_a_head_of_16_bits_takes_the_norm_as_it_is(tiny_quantized: Path):
    decoder = loader_of(tiny_quantized).load(64)
    weight = Checkpoint(tiny_quantized).tensor("lm_head.weight", *decoder.embedding.shape)
    assert torch.equal(decoder.lm_head.weight, weight.half())
    assert not decoder.norm.quantizes
    assert all(layer.input_norm.quantizes for layer in decoder.layers)


def test_the_stream_has_the_model_s_dtype(checkpoints: dict[str, Path]):
    decoder = loader_of(checkpoints["w8a8"]).load(64)
    assert decoder.dtype == decoder.embedding.dtype == decoder.norm.gain.dtype == torch.float16
    assert decoder.rope_table.dtype == torch.float32
