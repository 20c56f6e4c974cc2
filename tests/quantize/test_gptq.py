from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qoq.quantize import gptq
from qoq.quantize.clipping import ClippedRounding
from qoq.quantize.gptq import GptqRounding
from qoq.quantize.hessian import Hessian
from qoq.quantize.weights.channel_weight import ChannelWeight, round_to_channels
from qoq.quantize.weights.progressive_weight import ProgressiveWeight, round_to_groups

from .calibrated_weights import correlated_hessian, gaussian_weight
from .weights.weights import weights

K = 192  # a block and a half
HESSIAN = correlated_hessian(K)
CHANNELS = -1
SIZES = (CHANNELS, 32, 64)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def rounded(
    weight: Tensor, hessian: Hessian, size: int, clip: bool = True
) -> ChannelWeight | ProgressiveWeight:
    rounding = GptqRounding.of(hessian, clip)
    return rounding.to_channels(weight) if size == CHANNELS else rounding.to_groups(weight, size)


def nearest(weight: Tensor, size: int) -> ChannelWeight | ProgressiveWeight:
    return round_to_channels(weight) if size == CHANNELS else round_to_groups(weight, size)


@pytest.mark.parametrize("size", SIZES)
def test_unrelated_inputs_leave_rounding_to_nearest(size: int):
    """A diagonal Hessian has nothing to make up with. Weights are integers at level 0, since
    rounding to nearest looks for its groups' scales among those.
    """
    weight = (gaussian_weight(8, K) * 40).round().clamp(-119, 119)
    weight[:, 0] = 119
    weight *= 2.0**-9
    diagonal = torch.rand(K, generator=torch.Generator().manual_seed(4)) + 0.1
    actual = rounded(weight, Hessian(diagonal.diag()), size, clip=False)
    for name, tensor in nearest(weight, size).tensors().items():
        assert torch.equal(actual.tensors()[name], tensor), name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clip", [False, True])
def test_related_inputs_lose_less_output_than_by_rounding_to_nearest(size: int, clip: bool):
    """Errors in three quarters of the directions cost a hundredth: half is far from the limit."""
    weight = gaussian_weight(40, K)
    error = HESSIAN.relative_error(weight, rounded(weight, HESSIAN, size, clip).dequantize())
    assert error < 0.5 * HESSIAN.relative_error(weight, nearest(weight, size).dequantize())


@pytest.mark.parametrize("size", SIZES)
def test_making_up_for_errors_gains_over_clipping_alone(size: int):
    weight, clipped = gaussian_weight(40, K), ClippedRounding.of(HESSIAN)
    alone = clipped.to_channels(weight) if size == CHANNELS else clipped.to_groups(weight, size)
    error = HESSIAN.relative_error(weight, rounded(weight, HESSIAN, size).dequantize())
    assert error < HESSIAN.relative_error(weight, alone.dequantize())


@pytest.mark.parametrize("size", SIZES)
def test_clipping_looks_at_what_an_error_costs(size: int):
    """Inputs whose powers spread over four decades, unrelated, so that nothing is made up for."""
    powers = torch.logspace(0, 4, K)[torch.randperm(K, generator=torch.Generator().manual_seed(5))]
    hessian, weight = Hessian(powers.diag()), gaussian_weight(40, K)
    clipped, whole = (rounded(weight, hessian, size, clip).dequantize() for clip in (True, False))
    assert hessian.relative_error(weight, clipped) < 0.98 * hessian.relative_error(weight, whole)


def test_two_columns_by_hand():
    """H = [[1, .5], [.5, 1]], undamped: an error e of the first column moves the second by e / 2.

    Weights 0.4 and 7 in steps of 1 (the row spans 0..15): 0.4 becomes 0, so 7 aims at 7.2.
    """
    inverse = torch.linalg.inv(torch.tensor([[1.0, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    columns = torch.tensor([[0.4, 7.35, 15.0]])
    stored = GptqRounding(factor, clip=False).to_channels(columns)
    assert stored.scales.item() == 1
    assert stored.codes.tolist() == [[0, 8, 15]]  # 7.35 + 0.4 / 2 = 7.55


def test_blocks_do_not_change_the_codes(monkeypatch: pytest.MonkeyPatch):
    """But for ties: the same errors reach a column, added up in another order."""
    weight = gaussian_weight(16, K)
    whole = rounded(weight, HESSIAN, 64).dequantize()
    monkeypatch.setattr(gptq, "BLOCK", 64)
    assert ((rounded(weight, HESSIAN, 64).dequantize() != whole).float().mean()) < 0.01


@pytest.mark.parametrize("size", SIZES)
def test_the_same_bits_come_out_twice(size: int):
    weight = gaussian_weight(16, K)
    first, second = (rounded(weight, HESSIAN, size).tensors() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@settings(deadline=None, max_examples=30)
@given(weights(k=K), st.sampled_from(["related", "zero", "unused", "huge"]), st.booleans())
def test_every_code_is_legal(weight: Tensor, kind: str, clip: bool):
    """Related inputs push weights past their row's largest; unused ones are left as they are."""
    gram = HESSIAN.gram.clone() * {"zero": 0.0, "huge": 1e12}.get(kind, 1.0)
    if kind == "unused":
        gram[::3], gram[:, ::3] = 0, 0
    for size in SIZES:
        stored = rounded(weight, Hessian(gram), size, clip)
        stored.tensors()  # asserts that the integers are legal
        assert stored.codes.max() <= 15
        assert torch.isfinite(stored.dequantize()).all()
        if isinstance(stored, ProgressiveWeight):
            assert stored.group_scales.min() >= 1 and stored.group_scales.max() <= 17


def test_weights_pushed_past_the_protective_range_stay_legal():
    """Every column repeats the same input, so that all errors pile up on the weights to come."""
    hessian = Hessian(torch.ones(K, K) + 1e-4 * torch.eye(K))
    weight = torch.full((4, K), 119.0)
    weight[:, ::2] = 110.3
    weight[2:] *= -1
    stored = rounded(weight, hessian, 32)
    stored.tensors()  # asserts that the integers are legal
