"""Every GPU kernel once on small shapes, each compared with its definition: what test_sanitized
runs under compute-sanitizer. Arguments choose the parts.
"""

import sys

import prefill_cases
import torch
from dense_cases import assert_within_bounds, strided_rows
from fused_cases import check_all
from w4a8_cases import extreme_rows, head, product, with_stride

from qoq.kernels.bench import attention
from qoq.kernels.bench.attention_case import make_case
from qoq.kernels.bench.gemm import device_arch, random_activations, random_weight
from qoq.kernels.gpu.gemm.dense_gemm import dense_config, dense_gemm_triton
from qoq.kernels.gpu.gemm.w4a8 import multiply
from qoq.kernels.gpu.gemm.w4a8_config import (
    STREAM_K,
    Config,
    HopperTile,
    TileConfig,
    portable_config,
)
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w8a8 import w8a8_config, w8a8_gemm_triton

MS = (1, 17, 130)
HOPPER_TILES = [
    HopperTile(16, 4, 2, 2, 2),
    HopperTile(64, 5, 1, STREAM_K),
    HopperTile(64, 4, 4, STREAM_K, channels=64),
    HopperTile(128, 6, 1, 4),
    HopperTile(256, 4, takes_turns=True),
    HopperTile(128, 5, 1, STREAM_K, channels=256),
    HopperTile(96, 9, 1, 2),
    HopperTile(224, 5, 1, STREAM_K),
]


def w4a8_tiles() -> list[Config]:
    tiles: list[Config] = [portable_config(m, device_arch()) for m in (16, 32, 64, 128)]
    tiles.append(TileConfig(16, 128, 4, 4, 8, device_arch() >= 90))
    return tiles + (HOPPER_TILES if device_arch() == 90 else [])


def check_w4a8() -> None:
    """Tiles past the ends of M, N and K."""
    workspace = Workspace(torch.device("cuda"))
    for group_size, k in ((-1, 576), (128, 1024), (64, 576), (32, 576)):
        operands, x = random_weight(200, k, group_size, 1), random_activations(max(MS), k)
        weight = operands.copies[0]
        expected = product(x, operands.integers, weight.scales).half()
        for tile in w4a8_tiles():
            if isinstance(tile, HopperTile) and group_size == 32:
                continue
            for m in MS:
                got = multiply(head(x, m), weight, tile, workspace)
                assert torch.equal(got, expected[:m]), (group_size, tile, m)


def check_w8a8() -> None:
    workspace = Workspace(torch.device("cuda"))
    for n, k in ((200, 576), (72, 100)):
        weight = torch.randint(-128, 128, (n, k), dtype=torch.int8, device="cuda")
        x, scales = extreme_rows(max(MS), k, "cuda"), torch.rand(n, device="cuda")
        expected = product(x, weight, scales).half()
        for m in MS:
            config = w8a8_config(m, device_arch())._replace(split_k=5)
            for part in (head(x, m), with_stride(head(x, m), k + 1)):
                got = w8a8_gemm_triton(part, weight, scales, config, workspace)
                assert torch.equal(got, expected[:m]), (n, k, m)


def check_dense() -> None:
    for n, k in ((200, 576), (72, 100)):
        weight, bias = torch.randn(n, k, device="cuda").half(), torch.randn(n, device="cuda")
        for m in (*MS, 300):
            x = strided_rows(m, k, torch.float16, "cuda")
            y = dense_gemm_triton(x, weight, dense_config(m, device_arch()), bias)
            assert_within_bounds(y, x, weight, bias)


def check_fused() -> None:
    check_all("cuda", (torch.float16,))


def check_decode() -> None:
    for head_dim, heads in ((64, (9, 3)), (96, (2, 2)), (128, (8, 2)), (256, (4, 1))):
        for bits in (4, 8):
            attention.check(make_case([1, 64, 257, 0, 600], heads, head_dim, bits=bits))
    attention.check(make_case([20000], (8, 2), 128))  # more groups than fold side by side


def check_prefill() -> None:
    for head_dim, heads in ((64, (9, 3)), (128, (8, 2)), (256, (4, 1))):
        for window in (None, 100):
            prefill_cases.check(make_case([130, 1, 64, 300], heads, head_dim), window)


PARTS = {
    "gemm": [check_w4a8, check_w8a8, check_dense],
    "fused": [check_fused],
    "attention": [check_decode, check_prefill],
}

if __name__ == "__main__":
    torch.manual_seed(0)
    for part in sys.argv[1:] or PARTS:
        for check_part in PARTS[part]:
            check_part()
            torch.cuda.synchronize()
            print(f"{check_part.__name__}: equal or within bounds", flush=True)
