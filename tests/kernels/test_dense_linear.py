"""16- and 32-bit products close to float64, a row's bits its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.dense_linear import dense_linear, pack_dense

from .closeness import U32, UNIT_ROUNDOFF, assert_rows_ignore_their_company, assert_within

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(200, 576), (64, 96), (33, 50)]  # N, K


def operands(n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(33, k).to(dtype), torch.randn(n, k).to(dtype), torch.randn(n).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_is_within_rounding_of_float64(dtype: torch.dtype, shape: tuple[int, int], has_bias: bool):
    """K + 1 products summed in fp32 in any order, rounded to the dtype once (bf16: at most once
    more, before the bias). Fails if sums are kept in 16 bits or the bias is lost."""
    x, weight, bias = operands(*shape, dtype)
    exact = x.double() @ weight.double().t()
    magnitude = x.double().abs() @ weight.double().abs().t()
    bound = UNIT_ROUNDOFF[dtype] * exact.abs() + (shape[1] + 1) * U32 * magnitude
    if has_bias:
        exact = exact + bias.double()
        bound = bound + UNIT_ROUNDOFF[dtype] * exact.abs() + U32 * bias.double().abs()
    y = dense_linear(x, pack_dense(weight), bias if has_bias else None)
    assert y.dtype == dtype
    assert_within("y", y, exact, bound * (1 + UNIT_ROUNDOFF[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_at_every_m(
    dtype: torch.dtype, shape: tuple[int, int], threads: int
):
    """The point of packing: BLAS sums one row in another order than sixteen."""
    x, weight, bias = operands(*shape, dtype)
    packed = pack_dense(weight)
    sizes = tuple(range(1, 34))
    assert_rows_ignore_their_company("y", lambda rows: dense_linear(rows, packed, bias), x, sizes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows(dtype: torch.dtype):
    x, weight, _ = operands(8, 16, dtype)
    assert dense_linear(x[:0], pack_dense(weight)).shape == (0, 8)


def test_messages_name_the_tensor():
    """oneDNN's own message names neither tensor nor shape."""
    packed = pack_dense(torch.ones(8, 16))
    with pytest.raises(ValueError, match=r"^x: expected \[M, 16\], got \[2, 15\]"):
        dense_linear(torch.ones(2, 15), packed)
    for weight in (torch.ones(8), torch.ones(8, 16, dtype=torch.int8)):
        with pytest.raises(ValueError, match=r"^weight: expected floating point \[N, K\]"):
            pack_dense(weight)
