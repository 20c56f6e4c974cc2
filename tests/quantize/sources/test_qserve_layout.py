from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.qserve_layout import from_lanes, from_tiles, unwrap
from qoq.quantize.sources.quantized_source import open_folder
from qoq.quantize.weights.channel_weight import ChannelWeight
from qoq.quantize.weights.progressive_weight import ProgressiveWeight

from ..quantized_hf import change_config, change_tensors, qserve, write_quantized
from .quantized_folder import read_layer

UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize("group_size", [32, 64])
def test_groups_are_exact_though_zero_points_wrapped_around(tmp_path: Path, group_size: int):
    linears = write_quantized(tmp_path, qserve(group_size))
    num_wrapped = 0
    for stem, linear in linears.items():
        weight = read_layer(tmp_path, stem)
        assert isinstance(weight, ProgressiveWeight)
        weight.tensors()  # asserts that the numbers are legal
        assert torch.equal(weight.integers().long(), torch.from_numpy(linear.integers))
        assert torch.equal(weight.group_scales.long(), torch.from_numpy(linear.s))
        assert torch.equal(weight.dequantize(), linear.dequantize())
        has_wrapped = torch.from_numpy(linear.zeros * linear.s > 128)
        num_wrapped += int(has_wrapped.sum())
        kept = ~has_wrapped.repeat_interleave(group_size, dim=1)
        assert torch.equal(weight.codes[kept].long(), torch.from_numpy(linear.codes)[kept])
    assert num_wrapped > 50


def test_channels_are_exact(tmp_path: Path):
    for stem, linear in write_quantized(tmp_path, qserve(-1)).items():
        weight = read_layer(tmp_path, stem)
        assert isinstance(weight, ChannelWeight)
        assert torch.equal(weight.codes.long(), torch.from_numpy(linear.codes))
        assert torch.equal(weight.zeros.long(), torch.from_numpy(linear.zeros[:, 0]))
        assert torch.equal(weight.dequantize(), linear.dequantize())


def test_places_of_a_tile_by_hand():
    """The first byte is row 0 and row 16 of input 0; four bytes on, row 8; eight on, input 16;
    sixteen on, input 4; sixty-four on, row 1."""
    packed = torch.zeros(32, 16, dtype=torch.uint8)
    for at, value in {0: 0x21, 4: 0x03, 8: 0x04, 16: 0x05, 64: 0x06, 3: 0x07}.items():
        packed.view(-1)[at] = value
    codes = from_tiles(packed)
    places = {(0, 0): 1, (16, 0): 2, (8, 0): 3, (0, 16): 4, (0, 4): 5, (1, 0): 6, (0, 3): 7}
    assert {at: int(codes[at]) for at in places} == places
    assert int((codes > 0).sum()) == len(places)


def test_places_of_scales_by_hand():
    rows = [row + block for row in range(8) for block in (0, 8, 16, 24)]
    stored = torch.tensor([rows + [32 + row for row in rows]])
    assert from_lanes(stored)[:, 0].tolist() == list(range(64))


@pytest.mark.parametrize("s", range(1, 18))
def test_every_legal_group_survives_wrapping_around(s: int):
    """All offsets -z s, and all ranges of codes that stay within INT8."""
    for zero in range(16):
        for low in range(16):
            codes = torch.arange(low, 16, dtype=torch.uint8)
            integers = (codes.long() - zero) * s
            codes = codes[(integers >= -128) & (integers <= 127)]
            if len(codes):
                stored = torch.tensor([[-zero * s]]).to(torch.int8).short()
                new, b = unwrap(codes[None, None], torch.tensor([[s]]).short(), stored)
                assert -128 <= b <= 127 and new.min() >= 0
                assert torch.equal((new * s + b).flatten().long(), (codes.long() - zero) * s)


@pytest.mark.parametrize("suffix", ["s1_scales", "s2_scales", "s2_zeros"])
def test_a_missing_part_is_named(tmp_path: Path, suffix: str):
    write_quantized(tmp_path, qserve(32))
    change_tensors(tmp_path, lambda tensors: tensors.pop(f"{UP}.{suffix}"))
    with pytest.raises(ModelSourceError, match=rf"tensor {UP}\.{suffix} is missing; download"):
        read_layer(tmp_path, UP)


@pytest.mark.parametrize(
    ("suffix", "value", "message"),
    [
        ("s2_scales", 0, "leaves 1..17"),
        ("s2_scales", 18, "leaves 1..17"),
        ("s2_scales", -1, "leaves 1..17"),
        ("s2_zeros", 100, "makes weights that INT8 cannot hold"),
        ("s1_scales", float("nan"), "holds NaN or infinite values"),
        ("s1_scales", float("inf"), "holds NaN or infinite values"),
        ("s1_scales", -1.0, "holds negative scales"),
    ],
)
def test_numbers_that_the_format_does_not_allow(
    tmp_path: Path, suffix: str, value: float, message: str
):
    """100 + 7 * 17 passes 127, and 256 less, the lowest code passes -128."""
    write_quantized(tmp_path, qserve(32))

    def change(tensors: dict[str, Tensor]) -> None:
        if suffix == "s2_zeros":
            tensors[f"{UP}.s2_scales"].fill_(17)
            tensors[f"{UP}.qweight"].random_()
        tensors[f"{UP}.{suffix}"].fill_(value)

    change_tensors(tmp_path, change)
    with pytest.raises(ModelSourceError, match=rf"tensor {UP}\.{suffix} {message}"):
        read_layer(tmp_path, UP)


@pytest.mark.parametrize("factor", [0.55, 16.0])
def test_a_scaled_zero_point_that_is_no_code_is_named(tmp_path: Path, factor: float):
    write_quantized(tmp_path, qserve(-1))

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{UP}.s1_szeros"] = tensors[f"{UP}.s1_scales"] * factor

    change_tensors(tmp_path, change)
    with pytest.raises(ModelSourceError, match=rf"{UP}\.s1_szeros is not a whole multiple, 0 to"):
        read_layer(tmp_path, UP)


def test_zero_points_of_scales_below_the_normal_range_of_fp16(tmp_path: Path):
    """A product of 15 and a scale of 40 of the smallest steps, each rounded to such steps."""
    write_quantized(tmp_path, qserve(-1))
    scales = (torch.arange(40, 168) * 2.0**-24).half()
    zeros = torch.arange(128) % 16

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{UP}.s1_scales"] = scales
        tensors[f"{UP}.s1_szeros"] = (scales.double() * zeros + 2.0**-25).half()

    change_tensors(tmp_path, change)
    assert torch.equal(read_layer(tmp_path, UP).zeros.long(), zeros)


def test_eight_bit_weights_are_refused_by_name(tmp_path: Path):
    write_quantized(tmp_path, qserve(-1))

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith((".s1_scales", ".s1_szeros"))]:
            tensors[name.replace(".s1_scales", ".dequant_scale")] = tensors.pop(name)

    change_tensors(tmp_path, change)
    with pytest.raises(ModelSourceError, match="QServe checkpoint has 8-bit.*--precision w8a8kv8"):
        open_folder(tmp_path)


def test_shapes_that_fill_no_tiles_are_named(tmp_path: Path):
    write_quantized(tmp_path, qserve(32))
    change_config(tmp_path, hidden_size=48)
    with pytest.raises(ModelSourceError, match=r"holds \[128, 48\] codes, not whole tiles"):
        read_layer(tmp_path, UP)


def test_reads_the_converters_own_bin_file(tmp_path: Path):
    linears = write_quantized(tmp_path, qserve(32))
    tensors = load_file(tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    source = open_folder(tmp_path)
    assert torch.equal(source.load(f"{UP}.weight"), linears[UP].dequantize())
    gain = "model.layers.0.input_layernorm.weight"
    assert torch.equal(source.load(gain), tensors[gain])


def test_a_head_beside_a_tied_config_is_kept(tmp_path: Path):
    """Rotation unties the head; the converter copies the config of the model before."""
    write_quantized(tmp_path, qserve(32))
    change_config(tmp_path, tie_word_embeddings=True)
    source = open_folder(tmp_path)
    assert "lm_head.weight" in source.names
    assert source.config["tie_word_embeddings"] is False


def test_what_only_qserve_reads_is_left_out(tmp_path: Path):
    write_quantized(tmp_path, qserve(32))
    name = "model.layers.0.self_attn.kv_scale_quant_orig"
    change_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(2)}))
    assert name not in open_folder(tmp_path).names
