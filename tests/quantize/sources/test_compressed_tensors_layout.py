from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.checked_tensors import CheckedTensors
from qoq.quantize.sources.compressed_tensors_layout import CompressedTensorsLayout
from qoq.quantize.sources.safetensors_folder import SafetensorsFolder

from ..quantized_hf import change_tensors, compressed, write_quantized
from ..quantized_linear import compressed_tensors, random_linear
from .quantized_folder import read_layer, write_layer

DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("group_size", [32, 64, -1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_reads_what_was_written(tmp_path: Path, group_size: int, symmetric: bool, act_order: bool):
    fmt = compressed(group_size, symmetric=symmetric, act_order=act_order)
    for stem, linear in write_quantized(tmp_path, fmt).items():
        weight = read_layer(tmp_path, stem)
        assert torch.equal(weight.codes, torch.from_numpy(linear.codes).to(torch.uint8))
        assert torch.equal(weight.zeros, torch.from_numpy(linear.zeros).to(torch.uint8))
        assert torch.equal(weight.scales, torch.from_numpy(linear.scales).float())
        assert torch.equal(weight.dequantize(), linear.dequantize())


def test_words_written_by_hand(tmp_path: Path):
    """Code -8 is stored as 0 and 7 as 15; a zero point of 0 as 8."""
    write_layer(
        tmp_path,
        weight_packed=np.array([[0xF0F0F0F0] * 4] * 2, dtype=np.uint32).view(np.int32),
        weight_scale=np.ones((2, 1), dtype=np.float16),
        weight_zero_point=np.array([[0x00000098]], dtype=np.uint32).view(np.int32),
    )
    layout = open_layout(tmp_path, lambda entry: None, symmetric=False)
    first, second = layout.read("x", 2, 32).dequantize().tolist()
    assert first == [-8, 7] * 16
    assert second == [-9, 6] * 16


def test_rows_and_channels_that_do_not_fill_a_word(tmp_path: Path):
    linear = random_linear(np.random.default_rng(0), (10, 36), -1)
    write_layer(tmp_path, **compressed_tensors(linear, symmetric=False))
    layout = open_layout(tmp_path, lambda entry: None, group_size=-1, symmetric=False)
    assert torch.equal(layout.read("x", 10, 36).dequantize(), linear.dequantize())


def test_an_index_that_was_never_set_means_groups_in_order(tmp_path: Path):
    linears = write_quantized(tmp_path, compressed(32, symmetric=True))
    unset = torch.full((128,), -1, dtype=torch.int32)
    change_tensors(tmp_path, lambda tensors: tensors.update({f"{DOWN}.weight_g_idx": unset}))
    assert torch.equal(read_layer(tmp_path, DOWN).dequantize(), linears[DOWN].dequantize())


def test_an_index_of_unequal_groups_is_named(tmp_path: Path):
    write_quantized(tmp_path, compressed(32, symmetric=True, act_order=True))
    change_tensors(tmp_path, lambda tensors: tensors[f"{DOWN}.weight_g_idx"][:9].fill_(-1))
    with pytest.raises(ModelSourceError, match=rf"{DOWN}\.weight_g_idx does not put 32 inputs"):
        read_layer(tmp_path, DOWN)


def weights_of(entry: dict[str, Any]) -> dict[str, Any]:
    return entry["config_groups"]["group_0"]["weights"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(format="int-quantized"), "'int-quantized', and only 'pack-quantized'"),
        (lambda e: weights_of(e).update(num_bits=8), "has 8-bit weights, and only 4-bit"),
        (lambda e: weights_of(e).update(type="float"), "weights of type 'float', and only 'int'"),
        (lambda e: weights_of(e).update(strategy="tensor"), "strategy 'tensor', and only 'group'"),
        (lambda e: weights_of(e).update(group_size=16), "group size 16 is not supported"),
        (lambda e: e.update(transform_config={"R4": 1}), "has transforms of activations"),
        (lambda e: e.update(config_groups={"W4A16": ["Linear"]}), "without a scheme for weights"),
        (lambda e: e.update(config_groups={}), "has 0 schemes for weights"),
    ],
)
def test_refuses_by_name_what_it_does_not_know(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
):
    with pytest.raises(ModelSourceError, match=message):
        open_layout(tmp_path, change)


def test_refuses_two_schemes(tmp_path: Path):
    def add_scheme(entry: dict[str, Any]) -> None:
        entry["config_groups"]["group_1"] = copy.deepcopy(entry["config_groups"]["group_0"])
        entry["config_groups"]["group_1"]["weights"]["group_size"] = 64

    with pytest.raises(ModelSourceError, match="has 2 schemes for weights, and only a single one"):
        open_layout(tmp_path, add_scheme)


def open_layout(
    folder: Path,
    change: Callable[[dict[str, Any]], object],
    group_size: int = 32,
    symmetric: bool = True,
) -> CompressedTensorsLayout:
    entry = copy.deepcopy(compressed(group_size, symmetric=symmetric).entry)
    change(entry)
    return CompressedTensorsLayout.open(CheckedTensors(SafetensorsFolder(folder)), entry)
