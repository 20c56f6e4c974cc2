"""silu(gate) * up within fp32 rounding, a row's bits its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.quantize import quantize_activations
from qoq.kernels.silu_mul import silu_mul, silu_mul_quantize, silu_mul_reference

from .closeness import (
    U32,
    UNIT_ROUNDOFF,
    assert_rows_ignore_their_company,
    assert_same_bits,
    assert_within,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def assert_is_silu_mul(gate_up: Tensor):
    """exp is within 1 unit in the last place (2 roundoffs); sum, reciprocal and two products make
    4 more. Where exp overflows, a sigmoid under 2**-128 becomes 0. Then the dtype.
    """
    dtype = gate_up.dtype
    gate, up = gate_up.double().chunk(2, dim=-1)
    exact = gate * torch.sigmoid(gate) * up
    bound = (6.5 * U32 + UNIT_ROUNDOFF[dtype]) * exact.abs() + 2**-128 * (gate * up).abs()
    bound += torch.finfo(dtype).smallest_normal * UNIT_ROUNDOFF[dtype]
    y = silu_mul(gate_up)
    assert y.dtype == dtype
    assert_within("y", y, exact, bound)
    assert_within("reference", silu_mul_reference(gate_up), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 96, 1000])
def test_is_within_rounding_of_the_definition(dtype: torch.dtype, width: int):
    """Fails if gate and up are swapped or interleaved, or 16-bit input is not widened first."""
    assert_is_silu_mul((torch.randn(9, 2 * width) * 4).to(dtype))


def test_holds_from_one_end_of_exp_to_the_other():
    """exp(-gate) overflows below -88 and vanishes above 88: no NaN, no lost sign of ``up``."""
    gate = torch.cat((torch.linspace(-110, 110, 441), torch.tensor([-1e30, 1e30, -0.0, 0.0])))
    up = torch.where(torch.arange(gate.numel()) % 2 == 0, 1.5, -1.5)
    assert_is_silu_mul(torch.cat((gate, up))[None])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [96, 1000, 1536, 7])
def test_a_row_has_the_same_bits_in_any_batch(dtype: torch.dtype, width: int, threads: int):
    """Why silu is written with exp: torch's own gives elements in the tail of a vector loop other
    bits, and the tail moves with the number of rows."""
    assert_rows_ignore_their_company("y", silu_mul, (torch.randn(64, 2 * width) * 3).to(dtype))


def test_quantized_form_is_the_product_quantized():
    gate_up = torch.randn(5, 64)
    actual, expected = silu_mul_quantize(gate_up), quantize_activations(silu_mul(gate_up))
    assert_same_bits("codes", actual.codes, expected.codes)
    assert_same_bits("scales", actual.scales, expected.scales)


def test_leaves_its_input_alone():
    """fp32 input is not copied first, and the operations after the first are in place."""
    gate_up = torch.randn(3, 8)
    before = gate_up.clone()
    silu_mul(gate_up)
    assert_same_bits("gate_up", gate_up, before)


def test_no_rows():
    assert silu_mul(torch.empty(0, 8)).shape == (0, 4)


def test_refuses_an_odd_width():
    """``chunk`` would make halves of unlike width."""
    with pytest.raises(ValueError, match="^gate_up: the last dimension must be even, got 7"):
        silu_mul(torch.ones(2, 7))
