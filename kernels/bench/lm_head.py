"""The dense GEMM of an lm_head beside cuBLAS: ``python -P -m qoq.kernels.bench.lm_head`` on a GPU.

Every tile is compared with float64 and, bit for bit, with the others before it is timed. cuBLAS
writes 16 bits a logit where we write 32, and its rows depend on M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from qoq.kernels.bench.gemm import L2_BYTES, device_arch
from qoq.kernels.bench.timing import copy_bandwidth, time_us
from qoq.kernels.gpu.gemm.dense_gemm import dense_config, dense_gemm_triton
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig

# Vocabulary and hidden size.
SHAPES = {
    "SmolLM2-135M": (49152, 576),
    "Llama-2-7B": (32000, 4096),
    "Llama-3-8B": (128256, 4096),
    "Qwen2.5-32B": (151936, 5120),
    "Llama-3-70B": (128256, 8192),
}
MS = (1, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds of the tile that serves, of the fastest one, and of ``torch.mm`` in bf16."""

    m: int
    us: float
    fastest: TileConfig
    fastest_us: float
    cublas_us: float


def main() -> None:
    copy = copy_bandwidth()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"copy {copy:.2f} TB/s"
    )
    print(f"{'shape':14}{'M':>5}{'us':>9}{'TB/s':>7}{'/copy':>7}{'TOPS':>6}{'/cuBLAS':>9}  fastest")
    for name, (n, k) in SHAPES.items():
        for row in compare(n, k):
            speed = (2 * n * k + row.m * (2 * k + 4 * n)) / row.us / 1e6
            print(
                f"{name:14}{row.m:5}{row.us:9.1f}{speed:7.2f}{speed / copy:7.2f}"
                f"{2 * row.m * n * k / row.us / 1e6:6.0f}{row.cublas_us / row.us:9.2f}"
                f"  {row.fastest_us:.1f} {row.fastest}",
                flush=True,
            )


def candidates(m: int, arch: int) -> Iterator[TileConfig]:
    """What serves comes first."""
    yield dense_config(m, arch)
    overlaps = arch >= 90
    if m <= 64:
        block_m = max(16, triton.next_power_of_2(m))
        for block_n, stages in ((64, 4), (64, 8 if m <= 32 else 6), (128, 4)):
            yield TileConfig(block_m, block_n, 4, stages, 1, overlaps)
    else:
        yield TileConfig(64, 128, 4, 4, 1, overlaps)
        yield TileConfig(128, 128, 8, 4, 1, overlaps)
        yield TileConfig(128, 256, 8, 3, 1, overlaps)
    if m > 128 and arch == 90:
        yield TileConfig(256, 128, 8, 4, 1, overlaps)


def compare(n: int, k: int) -> Iterator[Row]:
    """Raises AssertionError where a result leaves its bound, or a tile has bits of its own."""
    arch = device_arch()
    weights = [
        torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        for _ in range(max(1, -(-L2_BYTES // (2 * n * k))))
    ]
    rows = torch.randn(max(MS), k, device="cuda", dtype=torch.bfloat16)
    whole = dense_gemm_triton(rows, weights[0], dense_config(max(MS), arch))
    check(whole, rows, weights[0])
    for m in MS:
        times = {}
        for tile in candidates(m, arch):
            got = dense_gemm_triton(rows[:m], weights[0], tile)
            assert torch.equal(got, whole[:m]), f"{n} x {k}, M={m} {tile}: bits of its own"
            times[tile] = time_us(_ours(rows[:m], weights, tile))
        fastest = min(times, key=lambda tile: times[tile])
        us = times[dense_config(m, arch)]
        yield Row(m, us, fastest, times[fastest], time_us(_cublas(rows[:m], weights)))


def check(y: Tensor, x: Tensor, weight: Tensor) -> None:
    """A sum of K exact products, at four roundoffs each on a matrix unit that truncates."""
    for columns, part in zip(weight.split(8192), y.split(8192, dim=1), strict=True):
        wide, columns = x.double(), columns.double().t()
        bound = (x.shape[1] + 8) * 2**-22 * (wide.abs() @ columns.abs())
        assert ((part - wide @ columns).abs() <= bound).all(), f"{list(weight.shape)}: wrong result"


def _ours(x: Tensor, weights: list[Tensor], tile: TileConfig) -> Callable[[int], Tensor]:
    return lambda index: dense_gemm_triton(x, weights[index % len(weights)], tile)


def _cublas(x: Tensor, weights: list[Tensor]) -> Callable[[int], Tensor]:
    return lambda index: torch.mm(x, weights[index % len(weights)].t())


if __name__ == "__main__":
    main()
