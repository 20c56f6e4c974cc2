from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.gptq_layout import GptqLayout
from qoq.quantize.sources.safetensors_folder import SafetensorsFolder

from ..quantized_hf import change_tensors, gptq, write_quantized
from .quantized_folder import read_layer, write_layer

ENTRY = {"bits": 4, "group_size": 32}
DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("group_size", [32, 64, -1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_reads_what_was_written(
    tmp_path: Path, version: int, group_size: int, symmetric: bool, act_order: bool
):
    fmt = gptq(group_size, version=version, symmetric=symmetric, act_order=act_order)
    for stem, linear in write_quantized(tmp_path, fmt).items():
        weight = read_layer(tmp_path, stem)
        assert torch.equal(weight.codes, torch.from_numpy(linear.codes).to(torch.uint8))
        assert torch.equal(weight.zeros, torch.from_numpy(linear.zeros).to(torch.uint8))
        assert torch.equal(weight.scales, torch.from_numpy(linear.scales).float())
        assert weight.is_contiguous is (not act_order or linear.scales.shape[1] == 1)
        assert torch.equal(weight.dequantize(), linear.dequantize())


def test_words_written_by_hand(tmp_path: Path):
    """Inputs 0 to 7 have codes 0 to 7; a stored zero point of 15 means 16 in the first format."""
    write_layer(
        tmp_path,
        qweight=np.array([[0x76543210] * 8] * 4, dtype=np.uint32).view(np.int32),
        qzeros=np.array([[0xF7654321]], dtype=np.uint32).view(np.int32),
        scales=np.ones((1, 8), dtype=np.float16),
    )
    layout = GptqLayout.open(CheckedTensors(SafetensorsFolder(tmp_path)), ENTRY)
    weight = layout.read("x", 8, 32)
    assert weight.codes.tolist() == [[*range(8)] * 4] * 8
    assert weight.zeros.tolist() == [[2], [3], [4], [5], [6], [7], [8], [16]]


def test_groups_are_in_order_where_there_is_no_index(tmp_path: Path):
    linears = write_quantized(tmp_path, gptq(32))
    change_tensors(tmp_path, lambda tensors: tensors.pop(f"{DOWN}.g_idx"))
    assert torch.equal(read_layer(tmp_path, DOWN).dequantize(), linears[DOWN].dequantize())


@pytest.mark.parametrize("value", [0, 4, -1])
def test_an_index_of_unequal_groups_is_named(tmp_path: Path, value: int):
    """One input too many in group 0, in a group that does not exist, in none."""
    write_quantized(tmp_path, gptq(32, act_order=True))
    change_tensors(tmp_path, lambda tensors: tensors[f"{DOWN}.g_idx"].fill_(value))
    with pytest.raises(ModelSourceError, match=rf"{DOWN}\.g_idx does not put 32 inputs into each"):
        read_layer(tmp_path, DOWN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_format": "marlin"}, "format 'marlin', and only 'gptq' and 'gptq_v2'"),
        ({"bits": 8}, "GPTQ checkpoint has 8-bit weights, and only 4-bit"),
        ({"bits": 3}, "has 3-bit weights"),
        ({"group_size": 1024}, "group size 1024 is not supported; choose 128, 64, 32, or -1"),
        ({"rotation": "hadamard"}, "rotates activations while it runs.*quantize the 16-bit"),
    ],
)
def test_refuses_by_name_what_it_does_not_know(
    tmp_path: Path, change: dict[str, object], message: str
):
    with pytest.raises(ModelSourceError, match=message):
        GptqLayout.open(CheckedTensors(SafetensorsFolder(tmp_path)), ENTRY | change)
