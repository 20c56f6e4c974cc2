from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.awq_layout import AwqLayout
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.safetensors_folder import SafetensorsFolder

from ..quantized_hf import awq, write_quantized
from .quantized_folder import read_layer, write_layer

ENTRY = {"bits": 4, "group_size": 32}


@pytest.mark.parametrize("group_size", [32, 64, -1])
def test_reads_what_was_written(tmp_path: Path, group_size: int):
    linears = write_quantized(tmp_path, awq(group_size))
    for stem, linear in linears.items():
        weight = read_layer(tmp_path, stem)
        assert torch.equal(weight.codes, torch.from_numpy(linear.codes).to(torch.uint8))
        assert torch.equal(weight.zeros, torch.from_numpy(linear.zeros).to(torch.uint8))
        assert torch.equal(weight.scales, torch.from_numpy(linear.scales).float())
        assert torch.equal(weight.dequantize(), linear.dequantize())


def test_a_word_written_by_hand(tmp_path: Path):
    """Channel i has code i, in the order that the format gives them in a word; zero points too."""
    word = np.array([[0x75316420]], dtype=np.uint32).view(np.int32)
    write_layer(
        tmp_path,
        qweight=word.repeat(32, axis=0),
        qzeros=word,
        scales=np.ones((1, 8), dtype=np.float16),
    )
    layout = AwqLayout.open(CheckedTensors(SafetensorsFolder(tmp_path)), ENTRY)
    weight = layout.read("x", 8, 32)
    assert weight.codes.tolist() == [[channel] * 32 for channel in range(8)]
    assert weight.zeros.tolist() == [[channel] for channel in range(8)]


@pytest.mark.parametrize(
    "entry",
    [
        {"bits": 4, "group_size": 64, "version": "GEMM"},
        {"w_bit": 4, "q_group_size": 64},
        {"bits": 4, "group_size": 64, "format": "gemm"},
    ],
)
def test_every_spelling_of_the_config(tmp_path: Path, entry: dict[str, object]):
    tensors = CheckedTensors(SafetensorsFolder(tmp_path))
    assert AwqLayout.open(tensors, entry).group_size == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "gemv"}, "layout 'gemv', and only 'gemm'.*quantize the 16-bit model"),
        ({"format": "marlin"}, "layout 'marlin'"),
        ({"bits": 8}, "AWQ checkpoint has 8-bit weights, and only 4-bit.*quantize the 16-bit"),
        ({"group_size": 16}, "group size 16 is not supported; choose 128, 64, 32, or -1"),
        ({"group_size": "all"}, "group_size is 'all', no number"),
    ],
)
def test_refuses_by_name_what_it_does_not_know(
    tmp_path: Path, change: dict[str, object], message: str
):
    with pytest.raises(ModelSourceError, match=message):
        AwqLayout.open(CheckedTensors(SafetensorsFolder(tmp_path)), ENTRY | change)
