from __future__ import annotations

import numpy as np
import pytest
import torch

from qoq.quantize.conversion import convert, round_dense
from qoq.quantize.weights.channel_weight import ChannelWeight
from qoq.quantize.weights.grouped_weight import GroupedWeight
from qoq.quantize.weights.progressive_weight import ProgressiveWeight, round_to_groups

from .quantized_linear import random_linear


def grouped(group_size: int, *, act_order: bool = False) -> GroupedWeight:
    linear = random_linear(np.random.default_rng(0), (8, 128), group_size, act_order=act_order)
    return GroupedWeight(
        torch.from_numpy(linear.codes).to(torch.uint8),
        torch.from_numpy(linear.scales).float(),
        torch.from_numpy(linear.zeros).to(torch.uint8),
        torch.from_numpy(linear.groups),
    )


def test_our_own_forms_stay_as_they_are():
    weight = round_to_groups(torch.randn(4, 64), 32)
    conversion = convert(weight, 32)
    assert conversion.weight is weight
    assert (conversion.method, conversion.error) == ("exact", 0.0)


def test_a_scale_a_channel_is_exact():
    weight = grouped(-1)
    conversion = convert(weight, -1)
    assert isinstance(conversion.weight, ChannelWeight)
    assert torch.equal(conversion.weight.dequantize(), weight.dequantize())
    assert (conversion.method, conversion.error) == ("exact", 0.0)


def test_groups_are_fitted_and_groups_out_of_order_rounded():
    """Scales drawn between 1 and 4 of a unit miss whole numbers by 2 % or so; new codes for
    uniform ones are off by 1 / sqrt(12) of a step that is 4.6 deviations wide at most 1.2 times."""
    for act_order, method, most in ((False, "fit", 0.04), (True, "rounding", 0.09)):
        weight = grouped(32, act_order=act_order)
        conversion = convert(weight, 32)
        assert isinstance(conversion.weight, ProgressiveWeight)
        assert conversion.weight.group_scales.shape == (8, 4)
        assert conversion.method == method
        change = (conversion.weight.dequantize() - weight.dequantize()).norm()
        assert conversion.error == pytest.approx((change / weight.dequantize().norm()).item())
        assert 0 < conversion.error < most


def test_a_16_bit_layer_is_rounded_to_the_form_of_the_others():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert isinstance(round_dense(weight, 32).weight, ProgressiveWeight)
    channels = round_dense(weight, -1)
    assert isinstance(channels.weight, ChannelWeight)
    change = (channels.weight.dequantize() - weight).norm() / weight.norm()
    assert channels.error == pytest.approx(change.item())


def test_a_layer_of_zeros_has_no_error():
    assert round_dense(torch.zeros(4, 64), 32).error == 0.0
