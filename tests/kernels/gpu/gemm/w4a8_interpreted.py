"""Run by test_w4a8_triton in a process of its own: Triton's interpreter is chosen at import.

Every case is compared with the definition bit for bit; the process fails on the first difference.
"""

import itertools

import numpy as np
import torch
from w4a8_cases import plain_and_gated

from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_triton import w4a8_gemm_triton
from qoq.kernels.gpu.gemm.w4a8_weight import pack_per_channel, pack_per_group, pair_rows
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations
from qoq.kernels.w4a8_gemm import w4a8_gemm_per_channel_reference, w4a8_gemm_reference

CONFIGS = [TileConfig(16, 64, 4, 3), TileConfig(16, 128, 4, 3, 3), TileConfig(32, 64, 4, 3, 2)]
SHAPES = [(1, 64, 128), (3, 200, 576), (17, 72, 256), (40, 130, 320)]


def activations(m: int, k: int) -> QuantizedActivations:
    wide = torch.randint(-127, 128, (m, k + 16), dtype=torch.int8)  # rows with a stride
    wide[0] = 127
    return QuantizedActivations(wide[:, :k], torch.rand(m, 1) + 0.1)


def per_group(m: int, n: int, k: int, group_size: int, config: TileConfig) -> None:
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scales, groups = torch.rand(n) + 0.1, (n, k // group_size)
    group_scales = torch.randint(1, 18, groups, dtype=torch.uint8)
    room = 255 - 15 * group_scales.int()
    offsets = ((torch.rand(groups) * (room + 1)).int() - 128).to(torch.int8)
    x, bias = activations(m, k), torch.rand(n)
    weight = pack_per_group(pack_codes(codes), scales, group_scales, offsets)
    workspace = Workspace(torch.device("cpu"), 1 << 22)
    got = w4a8_gemm_triton(x, weight, config, workspace, bias, torch.float32)
    expected = w4a8_gemm_reference(x, pack_codes(codes), scales, group_scales, offsets) + bias
    assert torch.equal(got, expected), (m, n, k, group_size, config)
    assert not workspace.counters.any(), "a split left its counter"


def per_channel(m: int, n: int, k: int, config: TileConfig) -> None:
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scales, zeros = torch.rand(n) + 0.1, torch.randint(0, 16, (n,), dtype=torch.uint8)
    x, workspace = activations(m, k), Workspace(torch.device("cpu"), 1 << 22)
    weight = pack_per_channel(pack_codes(codes), scales, zeros)
    got = w4a8_gemm_triton(x, weight, config, workspace, None, torch.float32)
    expected = w4a8_gemm_per_channel_reference(x, pack_codes(codes), scales, zeros)
    assert torch.equal(got, expected), (m, n, k, config)


def gated(m: int, n: int, k: int, group_size: int, config: TileConfig) -> None:
    """Of rows in pairs what the whole makes of all gate's before all up's, rounded to fp16."""
    x, bias, workspace = activations(m, k), torch.rand(n), Workspace(torch.device("cpu"), 1 << 22)
    plain, paired = plain_and_gated(n, k, group_size, "cpu")
    y = w4a8_gemm_triton(x, plain, config, workspace, bias)
    gate, up = y.float().view(m, 2, -1).movedim(1, 0).numpy()
    expected = torch.from_numpy(gate / (np.exp(-gate) + 1) * up).half()
    got = w4a8_gemm_triton(x, paired, config, workspace, pair_rows(bias))
    assert torch.equal(got, expected), (m, n, k, group_size, config)


if __name__ == "__main__":
    torch.manual_seed(0)
    gated(17, 208, 256, 64, CONFIGS[1])
    gated(3, 80, 128, -1, CONFIGS[2])
    for (m, n, k), config in itertools.product(SHAPES, CONFIGS):
        per_channel(m, n, k, config)
        for group_size in (128, 64, 32):
            if k % group_size == 0:
                per_group(m, n, k, group_size, config)
    print("equal")
