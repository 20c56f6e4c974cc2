from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qoq.quantize.clipping import ClippedRounding, clip_channels
from qoq.quantize.hessian import Hessian
from qoq.quantize.weights.channel_weight import ChannelRange, round_to_channels
from qoq.quantize.weights.cost import OutputError
from qoq.quantize.weights.int8_weight import int8_scales
from qoq.quantize.weights.lattice import PROTECTIVE_LIMIT, closed_form
from qoq.quantize.weights.progressive_weight import round_to_groups

from .calibrated_weights import correlated_hessian, gaussian_weight
from .weights.weights import weights

K = 64
HESSIAN = correlated_hessian(K)
COST = OutputError(HESSIAN.damped().float())


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@given(weights(k=K))
def test_a_clipped_channel_never_costs_more_than_the_whole_range(weight: Tensor):
    """In steps of the whole range, whose squares are finite; rounded a little differently there."""
    whole, clipped = ChannelRange.of(weight), clip_channels(weight, COST)
    costs = [
        COST((span.round(weight).dequantize() - weight) / whole.scales[:, None])
        for span in (clipped, whole)
    ]
    is_normal = whole.scales >= torch.finfo(torch.float32).tiny
    assert (costs[0] <= costs[1] * (1 + 1e-3))[is_normal].all()


@pytest.mark.parametrize("magnitude", [2.0**-100, 2.0**100])
def test_magnitude_does_not_matter(magnitude: float):
    """Fails where squares of errors leave fp32."""
    weight = gaussian_weight(8, K)
    span, scaled = clip_channels(weight, COST), clip_channels(weight * magnitude, COST)
    assert torch.equal(scaled.scales, span.scales * magnitude)
    assert torch.equal(scaled.zeros, span.zeros)


@given(weights(k=K))
def test_a_clipped_group_never_costs_more_than_the_closed_form(weight: Tensor):
    rounding = ClippedRounding.of(HESSIAN)
    stored = rounding.to_groups(weight, 32)
    values = weight / int8_scales(weight, PROTECTIVE_LIMIT)[:, None]
    groups = values.clamp(-PROTECTIVE_LIMIT, PROTECTIVE_LIMIT).unflatten(1, (-1, 32))
    lattice = closed_form(groups)
    closed = lattice.restore(lattice.encode(groups)) - groups
    found = stored.integers().float().unflatten(1, (-1, 32)) - groups
    for i in range(K // 32):
        cost = OutputError(rounding.hessian[32 * i : 32 * i + 32, 32 * i : 32 * i + 32])
        assert (cost(found[:, i]) <= cost(closed[:, i])).all()


@pytest.mark.parametrize("group_size", [-1, 32])
def test_gaussian_weights_lose_less_output_than_by_rounding_alone(group_size: int):
    """With inputs of few directions, a tenth is a cautious bound of what there is to gain."""
    weight, rounding = gaussian_weight(40, K), ClippedRounding.of(HESSIAN)
    if group_size == -1:
        clipped, nearest = rounding.to_channels(weight), round_to_channels(weight)
    else:
        clipped, nearest = rounding.to_groups(weight, 32), round_to_groups(weight, 32)
    error = HESSIAN.relative_error(weight, clipped.dequantize())
    assert error < 0.9 * HESSIAN.relative_error(weight, nearest.dequantize())


def test_an_outlier_that_nobody_reads_is_clipped_away():
    """Channels 5 and 6 are never used: the steps shrink as far as the grid of ratios allows."""
    weight = gaussian_weight(1, K)
    weight[0, 5], weight[0, 6] = 6.0, -6.0
    gram = HESSIAN.gram.clone()
    gram[5:7], gram[:, 5:7] = 0, 0
    unread = OutputError((gram + 1e-3 * torch.eye(K)).float())
    ratio = clip_channels(weight, unread).scales / ChannelRange.of(weight).scales
    assert ratio.item() == pytest.approx(0.6)


def test_a_row_of_denormals_keeps_its_codes_legal():
    """Its float scale is too small by a third, so that weights lie past 119 of it."""
    weight = (torch.randn(64, K, generator=torch.Generator().manual_seed(0)) * 1.5e-43).float()
    assert (weight / int8_scales(weight, PROTECTIVE_LIMIT)[:, None]).abs().max() > 127
    ClippedRounding.of(HESSIAN).to_groups(weight, 32).tensors()


@settings(deadline=None)
@given(weights(k=K), st.sampled_from(["correlated", "zero", "unused", "huge"]))
def test_every_code_is_legal(weight: Tensor, kind: str):
    gram = HESSIAN.gram.clone() * {"zero": 0.0, "huge": 1e12}.get(kind, 1.0)
    if kind == "unused":
        gram[::3], gram[:, ::3] = 0, 0
    rounding = ClippedRounding.of(Hessian(gram))
    grouped, channels = rounding.to_groups(weight, 32), rounding.to_channels(weight)
    grouped.tensors()  # asserts that the integers are legal
    assert grouped.group_scales.min() >= 1 and grouped.group_scales.max() <= 17
    for stored in (grouped, channels):
        assert stored.codes.max() <= 15
        assert torch.isfinite(stored.dequantize()).all()
