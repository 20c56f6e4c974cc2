"""INT32 accumulators equal the integer product; the epilogue rounds as the definition does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels import int8_gemm as module
from qoq.kernels.int8_gemm import check_exactness, int8_gemm, int8_gemm_reference, int8_matmul
from qoq.kernels.quantize import QuantizedActivations, quantize_activations

from .closeness import U32, assert_rows_ignore_their_company, assert_same_bits, assert_within

NUM_ROWS = (0, 1, 2, 3, 8, 15, 16, 17, 33, 64, 100)
N = 48


def random_codes(rows: int, columns: int) -> Tensor:
    return torch.randint(-128, 128, (rows, columns), dtype=torch.int8)


def extreme_codes(rows: int, columns: int) -> Tensor:
    """Rows of one sign each: the largest sums of either sign, in which INT16 pairs saturate."""
    codes = torch.full((rows, columns), -128, dtype=torch.int8)
    codes[::2] = 127
    return codes


def operands(num_rows: int, k: int) -> tuple[QuantizedActivations, Tensor, Tensor, Tensor]:
    x = quantize_activations(torch.randn(num_rows, k))
    return x, random_codes(N, k), torch.rand(N) + 0.01, torch.randn(N)


@pytest.mark.parametrize("fill", [random_codes, extreme_codes])
@pytest.mark.parametrize("k", [576, 1536, 64, 30])
def test_accumulators_are_exact(fill, k: int):
    """Fails if a kernel for some M saturates pairs in INT16 or accumulates in fp32."""
    weight = fill(N, k)
    for num_rows in NUM_ROWS:
        codes = fill(num_rows, k)
        exact = (codes.long() @ weight.long().t()).int()
        assert_same_bits(f"acc, M {num_rows}", int8_matmul(codes, weight), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_equals_the_definition_bit_for_bit(dtype: torch.dtype, has_bias: bool):
    """Fails if scales are applied one after the other, or a 16-bit result is rounded twice."""
    for num_rows in NUM_ROWS:
        x, weight, scales, bias = operands(num_rows, 64)
        arguments = (x, weight, scales, bias if has_bias else None, dtype)
        y = int8_gemm(*arguments)
        assert y.shape == (num_rows, N) and y.dtype == dtype
        expected = (x.codes.long() @ weight.long().t()).float() * (x.scales * scales)
        expected = (expected + bias if has_bias else expected).to(dtype)
        assert_same_bits(f"y, M {num_rows}", y, expected)
        assert_same_bits(f"reference, M {num_rows}", int8_gemm_reference(*arguments), expected)


def test_value_is_the_product_of_the_dequantized_operands():
    """Catches what the reference shares: a forgotten scale or bias, a transposed weight.

    Four roundings: the accumulator, the product of scales, their product, the bias.
    """
    x, weight, scales, bias = operands(9, 96)
    exact = (x.codes.double() * x.scales.double()) @ (weight * scales.double()[:, None]).t()
    bound = 4 * U32 * (exact.abs() + bias.abs())
    assert_within("y", int8_gemm(x, weight, scales, bias), exact + bias, bound)


def test_a_row_has_the_same_bits_at_every_m(threads: int):
    _, weight, scales, bias = operands(0, 576)

    def gemm(x: Tensor) -> Tensor:
        return int8_gemm(quantize_activations(x), weight, scales, bias)

    sizes = tuple(m for m in NUM_ROWS if m)
    assert_rows_ignore_their_company("y", gemm, torch.randn(100, 576), sizes)


def test_messages_name_the_tensor():
    x, weight, scales, bias = operands(3, 64)
    with pytest.raises(ValueError, match="^codes, weight: expected int8, got torch.int8, torch.fl"):
        int8_gemm(x, weight.float(), scales)
    with pytest.raises(ValueError, match="^codes, weight: expected int8, got torch.int16"):
        int8_gemm(QuantizedActivations(x.codes.short(), x.scales), weight, scales)
    with pytest.raises(ValueError, match=r"^weight: expected \[N, 64\].*got \[48, 63\]"):
        int8_gemm(x, weight[:, 1:], scales)
    with pytest.raises(ValueError, match=r"^weight: .*got \[64\]"):
        int8_gemm(x, weight[0], scales)
    with pytest.raises(ValueError, match=r"^weight_scales: expected \[48\], got \[48, 1\]"):
        int8_gemm(x, weight, scales[:, None])
    with pytest.raises(ValueError, match=r"^bias: expected \[48\], got \[47\]"):
        int8_gemm(x, weight, scales, bias[1:])


def test_this_machine_is_exact():
    check_exactness()


def saturating_matmul(codes: Tensor, weight: Tensor) -> Tensor:
    """Activations shifted to unsigned, pairs of products added in INT16, as without VNNI."""
    products = (codes.int() + 128)[:, None] * weight.int()
    pairs = products.unflatten(2, (-1, 2)).sum(dim=3).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(dim=2) - 128 * weight.int().sum(dim=1)).int()


def exact_for_one_row_only(codes: Tensor, weight: Tensor) -> Tensor:
    return (int8_matmul if codes.shape[0] == 1 else saturating_matmul)(codes, weight)


@pytest.mark.parametrize("fake", [saturating_matmul, exact_for_one_row_only])
def test_a_saturating_product_is_found(fake, monkeypatch: pytest.MonkeyPatch):
    """Fails if the probe's codes are too tame, or only one row count is probed."""
    monkeypatch.setattr(module, "int8_matmul", fake)
    with pytest.raises(RuntimeError, match="saturates"):
        check_exactness()
