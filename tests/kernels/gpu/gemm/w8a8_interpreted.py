"""Run by test_w8a8_triton in a process of its own: Triton's interpreter is chosen at import."""

import itertools

import torch

from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w8a8 import w8a8_gemm_triton
from qoq.kernels.int8_gemm import int8_gemm_reference
from qoq.kernels.quantize import QuantizedActivations

CONFIGS = [TileConfig(16, 64, 4, 3), TileConfig(32, 64, 4, 3, 2), TileConfig(16, 128, 4, 3, 3)]
SHAPES = [(1, 64, 128), (3, 200, 576), (40, 130, 384)]

if __name__ == "__main__":
    torch.manual_seed(0)
    for (m, n, k), config in itertools.product(SHAPES, CONFIGS):
        codes = torch.randint(-127, 128, (m, k + 16), dtype=torch.int8)[:, :k]
        x = QuantizedActivations(codes, torch.rand(m, 1) + 0.1)
        weight = torch.randint(-128, 128, (n, k), dtype=torch.int8)
        scales, bias = torch.rand(n) + 0.1, torch.rand(n)
        workspace = Workspace(torch.device("cpu"), 1 << 22)
        got = w8a8_gemm_triton(x, weight, scales, config, workspace, bias, torch.float32)
        expected = int8_gemm_reference(x, weight, scales, bias)
        assert torch.equal(got, expected), (m, n, k, config)
        assert not workspace.counters.any(), "a split left its counter"
    print("equal")
