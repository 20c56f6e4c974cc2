from pathlib import Path

import pytest
import torch

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.channel_order import reorder_channels

from .tiny_decoder import TinyDecoder


@pytest.fixture
def layer(tmp_path: Path) -> LayerWeights:
    """4 query heads on 2 value heads of 16 channels; 96 MLP channels, whose columns in down_proj
    hold their number, as do the columns of o_proj.
    """
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]
    for linear, size in (("mlp.down_proj", 96), ("self_attn.o_proj", 64)):
        numbers = torch.arange(size, dtype=torch.float32)
        layer.tensors[f"{linear}.weight"] = numbers.expand(64, size).contiguous()
    return layer


def columns(layer: LayerWeights, linear: str) -> list[int]:
    return [int(number) for number in layer.tensors[f"{linear}.weight"][0]]


def test_the_most_salient_channels_come_first_and_ties_stay_in_order(layer: LayerWeights):
    salience = torch.zeros(96)
    salience[90], salience[40], salience[7] = 3.0, 1.0, 1.0
    reorder_channels(layer, "down_proj", salience)
    others = [channel for channel in range(96) if channel not in (7, 40, 90)]
    assert columns(layer, "mlp.down_proj") == [90, 7, 40, *others]


def test_channels_of_o_proj_stay_in_their_head_and_a_group_shares_an_order(layer: LayerWeights):
    """Query heads 0 and 1 share value head 0; channel 5 stands out in head 1, 9 in head 2."""
    salience = torch.zeros(4, 16)
    salience[0, 2], salience[1, 5], salience[2, 9] = 1.0, 2.0, 1.0
    reorder_channels(layer, "o_proj", salience.flatten())
    first = [5, 2, *(c for c in range(16) if c not in (5, 2))]
    second = [9, *(c for c in range(16) if c != 9)]
    expected = [
        16 * head + c for head, order in enumerate([first] * 2 + [second] * 2) for c in order
    ]
    assert columns(layer, "self_attn.o_proj") == expected


@pytest.mark.parametrize(("part", "size"), [("down_proj", 96), ("o_proj", 64)])
def test_equal_salience_changes_nothing(part: str, size: int, layer: LayerWeights):
    before = dict(layer.tensors)
    reorder_channels(layer, part, torch.zeros(size))
    assert all(torch.equal(layer.tensors[name], tensor) for name, tensor in before.items())
