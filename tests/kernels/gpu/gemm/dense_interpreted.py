"""Run by test_dense_gemm in a process of its own: Triton's interpreter is chosen at import."""

import itertools

import torch
from dense_cases import assert_within_bounds, strided_rows

from qoq.kernels.gpu.gemm.dense_gemm import dense_gemm_triton
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig

CONFIGS = [TileConfig(16, 64, 4, 3), TileConfig(32, 128, 8, 3)]
SHAPES = [(1, 64, 128), (3, 200, 576), (40, 130, 72)]

if __name__ == "__main__":
    torch.manual_seed(0)
    for (m, n, k), config in itertools.product(SHAPES, CONFIGS):
        x, weight = strided_rows(m, k, torch.float16, "cpu"), torch.randn(n, k).half()
        for bias, out_dtype in ((None, torch.float32), (torch.randn(n), torch.float16)):
            y = dense_gemm_triton(x, weight, config, bias, out_dtype)
            assert_within_bounds(y, x, weight, bias)
    print("equal")
