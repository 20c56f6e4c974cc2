"""The entry point on a GPU: any shape that the format allows, bit for bit, at every M."""

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.bench.gemm import random_activations, random_weight
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm
from qoq.kernels.gpu.gemm.w4a8_weight import pair_rows
from qoq.kernels.quantize import QuantizedActivations

from .w4a8_cases import (
    assert_close_with_bias,
    assert_is_silu_mul,
    extreme_rows,
    head,
    plain_and_gated,
    product,
    weight_of_every_pair,
    with_stride,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
MS = (0, 1, 2, 3, 8, 15, 16, 17, 33, 64, 100, 128, 255, 256, 500, 2048, 8192)
# N of one row, of less than a tile, of no whole tile, of no whole 16 bytes of output.
ODD = [(1, 128), (72, 576), (200, 1536), (1001, 320), (4100, 1088)]


@pytest.fixture
def gemm() -> W4A8Gemm:
    return W4A8Gemm(torch.device("cuda"))


@pytest.mark.parametrize(
    ("n", "k", "group_size"), [(552, 1024, 128), (552, 576, 64), (552, 576, 32), (549, 1024, 128)]
)
def test_every_scale_and_offset_with_extreme_codes(
    gemm: W4A8Gemm, n: int, k: int, group_size: int
) -> None:
    weight, integers = weight_of_every_pair(n, k, group_size, "cuda")
    x = extreme_rows(max(MS), k, "cuda")
    expected = product(x, integers, weight.scales).half()
    for m in MS:
        assert torch.equal(gemm(head(x, m), weight), expected[:m]), m
    assert not gemm.workspace.counters.any()


@pytest.mark.parametrize("group_size", [128, 64, 32, -1])
@pytest.mark.parametrize(("n", "k"), ODD)
def test_odd_shapes(gemm: W4A8Gemm, n: int, k: int, group_size: int) -> None:
    """Rows that follow each other, that lie apart, and that begin at any byte."""
    if k % group_size:
        pytest.skip(f"groups of {group_size} do not divide K = {k}")
    operands = random_weight(n, k, group_size, 1)
    weight, x = operands.copies[0], random_activations(300, k)
    expected = product(x, operands.integers, weight.scales).half()
    for m, gap in ((0, 0), (1, 48), (17, 1), (130, 48), (300, 0)):
        part = with_stride(head(x, m), k + gap)
        assert torch.equal(gemm(part, weight), expected[:m]), m


@pytest.mark.parametrize("group_size", [64, -1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bias_and_output_dtype(gemm: W4A8Gemm, dtype: torch.dtype, group_size: int) -> None:
    operands = random_weight(584, 576, group_size, 1)
    weight, x = operands.copies[0], random_activations(300, 576)
    expected = product(x, operands.integers, weight.scales)
    for bias in (torch.randn(584, device="cuda"), torch.randn(584, device="cuda").to(dtype)):
        for m in (0, 1, 17, 300):
            y = gemm(head(x, m), weight, bias, dtype)
            assert y.dtype == dtype
            assert_close_with_bias(y, expected[:m], bias)
    assert torch.equal(gemm(x, weight, None, dtype), expected.to(dtype))
    assert torch.equal(gemm(x, weight, None, torch.float32), expected)


@pytest.mark.parametrize("group_size", [128, 32, -1])
def test_a_graph_replays_what_eager_computes(gemm: W4A8Gemm, group_size: int) -> None:
    operands = random_weight(1096, 1536, group_size, 1)
    weight, bias = operands.copies[0], torch.randn(1096, device="cuda").half()
    for m in (1, 16, 40, 129, 700):
        x = random_activations(m, 1536)
        eager = gemm(x, weight, bias, torch.bfloat16)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = gemm(x, weight, bias, torch.bfloat16)
        for _ in range(3):
            y.zero_()
            graph.replay()
            assert torch.equal(y, eager), m
        other = random_activations(m, 1536)
        x.codes.copy_(other.codes)
        x.scales.copy_(other.scales)
        graph.replay()
        assert torch.equal(y, gemm(other, weight, bias, torch.bfloat16)), m
    assert not gemm.workspace.counters.any()


@pytest.mark.parametrize(
    ("n", "k", "group_size", "dtype"),
    [
        (16, 128, 128, torch.float16),
        (2064, 1088, 64, torch.bfloat16),
        (2064, 1088, 32, torch.float16),
        (1040, 576, -1, torch.bfloat16),
    ],
)
def test_a_gated_weight_gives_silu_mul(
    gemm: W4A8Gemm, n: int, k: int, group_size: int, dtype: torch.dtype
) -> None:
    """The bits of a plain weight and of the kernel behind it, from rows that lie apart too."""
    plain, gated = plain_and_gated(n, k, group_size, "cuda")
    x, bias = random_activations(2048, k), torch.randn(n, device="cuda").to(dtype)
    for m, gap in ((0, 0), (1, 48), (17, 1), (130, 48), (2048, 0)):
        part = with_stride(head(x, m), k + gap)
        got = gemm(part, gated, pair_rows(bias), dtype)
        assert_is_silu_mul(got, gemm(part, plain, bias, dtype))
    assert not gemm.workspace.counters.any()


def test_sums_that_are_given_are_used(gemm: W4A8Gemm) -> None:
    """Per channel: what the quantizing kernel summed already is not summed again."""
    operands = random_weight(200, 576, -1, 1)
    weight, x = operands.copies[0], random_activations(40, 576)
    expected = product(x, operands.integers, weight.scales).half()
    assert torch.equal(gemm(x, weight, x_sums=x.sums), expected)
    assert not torch.equal(gemm(x, weight, x_sums=x.sums + 1), expected)


def test_refuses_what_does_not_match(gemm: W4A8Gemm) -> None:
    weight, x = random_weight(200, 576, 64, 1).copies[0], random_activations(4, 576)
    with pytest.raises(ValueError, match="codes: expected int8"):
        gemm(random_activations(4, 512), weight)
    with pytest.raises(ValueError, match="codes: expected on cuda"):
        gemm(QuantizedActivations(x.codes.cpu(), x.scales), weight)
    with pytest.raises(ValueError, match="bias: expected"):
        gemm(x, weight, torch.zeros(199, device="cuda"))
