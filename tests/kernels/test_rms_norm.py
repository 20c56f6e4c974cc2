"""Residual addition in place, the norm within fp32 rounding, a row's bits its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.quantize import quantize_activations
from qoq.kernels.rms_norm import add_rms_norm, add_rms_norm_quantize, rms_norm_reference

from .closeness import (
    U32,
    UNIT_ROUNDOFF,
    assert_rows_ignore_their_company,
    assert_same_bits,
    assert_within,
)

EPS = 1e-5
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def exact_norm(x: Tensor, gain: Tensor) -> Tensor:
    """The definition in float64, without any rounding to the dtype."""
    wide = x.double()
    return wide / (wide.square().mean(dim=-1, keepdim=True) + EPS).sqrt() * gain.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 96, 576, 1000])
def test_is_within_rounding_of_the_definition(dtype: torch.dtype, k: int):
    """K squares add up with at most K roundings, halved by the root; 8 more for the rest, and two
    roundings to the dtype. Fails without eps (row 1 is tiny) or with a mean over another dimension.
    """
    x, gain = torch.randn(7, k).to(dtype), torch.randn(k).to(dtype)
    x[1] *= 1e-3
    x[2] = 0
    exact = exact_norm(x, gain)
    bound = ((k / 2 + 8) * U32 + 2 * UNIT_ROUNDOFF[dtype]) * exact.abs()
    bound += torch.finfo(dtype).smallest_normal * UNIT_ROUNDOFF[dtype] * 2 * (1 + gain.abs())
    y = add_rms_norm(None, x, gain, EPS)
    assert y.dtype == dtype
    assert_within("y", y, exact, bound)
    assert_within("reference", rms_norm_reference(x, gain, EPS), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [96, 576, 1000])
def test_a_row_has_the_same_bits_in_any_batch(dtype: torch.dtype, k: int, threads: int):
    """Fails if a tail of a vector loop, or a cut for threads, falls elsewhere with more rows."""
    gain = torch.randn(k).to(dtype)
    x = torch.randn(64, k).to(dtype)
    assert_rows_ignore_their_company("y", lambda r: add_rms_norm(None, r.clone(), gain, EPS), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adds_to_the_residual_in_place(dtype: torch.dtype):
    """The next layer reads the same tensor: a copy would lose this layer's output."""
    x, residual, gain = torch.randn(3, 32), torch.randn(3, 32).to(dtype), torch.randn(32).to(dtype)
    x = x.to(dtype)
    before = x.clone()
    total = residual + x
    y = add_rms_norm(x, residual, gain, EPS)
    assert_same_bits("residual", residual, total)
    assert_same_bits("x", x, before)
    assert_same_bits("y", y, add_rms_norm(None, total, gain, EPS))
    assert_same_bits("residual, x None", total, residual)
    assert y.data_ptr() != residual.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantized_form_is_the_norm_quantized(dtype: torch.dtype):
    x, residual, gain = (torch.randn(s).to(dtype) for s in ((5, 64), (5, 64), (64,)))
    expected = quantize_activations(add_rms_norm(x, residual.clone(), gain, EPS))
    actual = add_rms_norm_quantize(x, residual, gain, EPS)
    assert_same_bits("codes", actual.codes, expected.codes)
    assert_same_bits("scales", actual.scales, expected.scales)


def test_no_rows():
    assert add_rms_norm(None, torch.empty(0, 8), torch.ones(8), EPS).shape == (0, 8)


def test_refuses_a_gain_of_another_width():
    """A gain of one element would broadcast."""
    for gain in (torch.ones(1), torch.ones(7), torch.ones(2, 8)):
        with pytest.raises(ValueError, match=r"^gain: expected \[8\], got"):
            add_rms_norm(None, torch.ones(2, 8), gain, EPS)
