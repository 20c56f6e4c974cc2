from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qoq.quantize.weights import progressive_fit
from qoq.quantize.weights.grouped_weight import GroupedWeight, contiguous_groups
from qoq.quantize.weights.progressive_fit import fit_progressive
from qoq.quantize.weights.progressive_weight import round_to_groups

GROUP = 32


def grouped(codes: Tensor, scales: Tensor, zeros: Tensor) -> GroupedWeight:
    groups = contiguous_groups(codes.shape[1], scales.shape[1])
    return GroupedWeight(codes.to(torch.uint8), scales.float(), zeros.to(torch.uint8), groups)


def rounded_gaussian(n: int, num_groups: int, symmetric: bool) -> GroupedWeight:
    """What a quantizer makes of Gaussian weights, with float16 scales."""
    x = torch.randn(n, num_groups, GROUP, generator=torch.Generator().manual_seed(0))
    low, high = x.amin(dim=2), x.amax(dim=2)
    if symmetric:
        scales, zeros = 2 * torch.maximum(-low, high) / 15, torch.full_like(low, 8)
    else:
        scales = (high - low) / 15
        zeros = (-low / scales).round().clamp(0, 15)
    scales = scales.half().float()
    codes = ((x / scales[..., None]).round() + zeros[..., None]).clamp(0, 15)
    return grouped(codes.flatten(1), scales, zeros)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("largest", range(1, 9))
def test_scales_in_whole_ratios_are_exact(largest: int):
    """Any s from 1 to 8 keeps codes less zero points, -15..15, within INT8."""
    generator = torch.Generator().manual_seed(largest)
    codes = torch.randint(16, (8, 4 * GROUP), generator=generator)
    s = torch.randint(1, largest + 1, (8, 4), generator=generator)
    s[:, 2] = largest
    zeros = torch.randint(16, (8, 4), generator=generator)
    weight = grouped(codes, s * torch.linspace(0.001, 0.1, 8).half().float()[:, None], zeros)
    fitted = fit_progressive(weight)
    assert torch.equal(fitted.codes, weight.codes)
    assert relative_error(fitted.dequantize(), weight.dequantize()) < 2**-23


def test_a_single_group_is_exact_with_its_own_scale():
    weight = grouped(torch.arange(GROUP)[None] % 16, torch.tensor([[0.3]]), torch.tensor([[5]]))
    fitted = fit_progressive(weight)
    assert torch.equal(fitted.dequantize(), weight.dequantize())


@pytest.mark.parametrize("symmetric", [True, False])
def test_gaussian_codes_are_kept_and_lose_less_than_rounding_anew(symmetric: bool):
    """A group's slope misses its ratio by 1/sqrt(12) of s = 10 or so: some 3 %."""
    weight = rounded_gaussian(64, 8, symmetric)
    exact = weight.dequantize()
    fitted = fit_progressive(weight)
    error = relative_error(fitted.dequantize(), exact)
    assert (fitted.codes != weight.codes).float().mean() < 0.01
    assert error < 0.03
    assert error < relative_error(round_to_groups(exact, GROUP).dequantize(), exact)


def test_no_level_0_scale_of_a_fine_grid_is_much_better(monkeypatch: pytest.MonkeyPatch):
    """The grid that is tried loses less than a twentieth against 0.1 steps of the peak."""
    weight = rounded_gaussian(64, 8, symmetric=False)
    exact = weight.dequantize()
    error = relative_error(fit_progressive(weight).dequantize(), exact)
    monkeypatch.setattr(progressive_fit, "PEAKS", [peak / 10 for peak in range(600, 1280)])
    assert error < 1.05 * relative_error(fit_progressive(weight).dequantize(), exact)


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_integers_are_better_for_kept_codes(symmetric: bool):
    """Against all s and b at the level-0 scales that were chosen."""
    weight = rounded_gaussian(4, 2, symmetric)
    fitted = fit_progressive(weight)
    scales = fitted.scales.double()[:, None, None]
    exact = weight.dequantize().double().view(4, 2, GROUP) / scales
    codes = weight.codes.double().view(4, 2, GROUP)
    s = torch.arange(1, 18).double()[:, None, None, None, None]
    b = torch.arange(-128, 128).double()[:, None, None, None]
    least = (codes * s + b - exact).square().sum(dim=-1).amin(dim=(0, 1))
    error = (fitted.integers().double().view(4, 2, GROUP) - exact).square().sum(dim=-1)
    assert (error <= least * (1 + 1e-6)).all()


def test_a_group_of_small_scale_beside_a_large_one_is_rounded_not_stretched():
    """Kept codes would step by one integer at least; nearest codes are off by half of one, and 127
    of these are the largest weight."""
    scales = torch.tensor([[1.0, 0.001]])
    weight = grouped(torch.arange(2 * GROUP)[None] % 16, scales, torch.tensor([[8, 8]]))
    fitted = fit_progressive(weight)
    change = (fitted.dequantize() - weight.dequantize()).abs()
    assert (change[:, GROUP:] <= 0.5 * fitted.scales[:, None] + 1e-6).all()


@pytest.mark.parametrize("scales", [[[0.0, 0.0]], [[0.0, 1.0]], [[1e-30, 1e-30]], [[1e30, 1e-30]]])
def test_zero_and_extreme_scales_stay_finite_and_legal(scales: list[list[float]]):
    codes = torch.arange(2 * GROUP)[None] % 16
    fitted = fit_progressive(grouped(codes, torch.tensor(scales), torch.tensor([[8, 0]])))
    fitted.tensors()  # asserts that the numbers are legal
    assert torch.isfinite(fitted.dequantize()).all()
    if scales[0] == [0.0, 0.0]:
        assert not fitted.dequantize().any()


def test_rows_do_not_depend_on_the_chunks_they_are_fitted_in(monkeypatch: pytest.MonkeyPatch):
    weight = rounded_gaussian(10, 4, symmetric=False)
    whole = fit_progressive(weight).tensors()
    monkeypatch.setattr(progressive_fit, "CHUNK_ELEMENTS", 3 * 4 * GROUP)
    for name, tensor in fit_progressive(weight).tensors().items():
        assert torch.equal(tensor, whole[name])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 16), st.integers(0, 12))
def test_any_codes_give_legal_numbers(seed: int, zero: int, decades: int):
    """Scales over many decades, a zero point up to 16, codes of any range."""
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(1, 17, (1,), generator=generator).item()
    codes = torch.randint(top, (3, 4 * GROUP), generator=generator) + (16 - top)
    scales = 10 ** (-decades * torch.rand(3, 4, generator=generator))
    fitted = fit_progressive(grouped(codes, scales, torch.full((3, 4), zero)))
    fitted.tensors()
    assert fitted.codes.max() <= 15 and fitted.group_scales.min() >= 1
    assert fitted.group_scales.max() <= 17


def test_a_row_that_passes_int8_for_the_sake_of_its_other_groups_stays_legal():
    """A unit makes all groups but one exact; 14 * 9.4 is 131.6 there, and its nearest code, 15 of
    nines above 1, would be 136."""
    scales = torch.tensor([[10, 9.4, *(3, 5, 7, 9, 11, 13) * 5]])
    scales[0, -6:] = 10
    zeros = torch.full_like(scales, 8)
    zeros[0, 1] = 0
    codes = (torch.arange(GROUP) % 16).repeat(scales.shape[1]).view(1, -1, GROUP)
    codes[0, 1].clamp_(max=14)
    fitted = fit_progressive(grouped(codes.flatten(1), scales, zeros))
    assert fitted.scales.item() == 1
    fitted.tensors()  # asserts that the numbers are legal
