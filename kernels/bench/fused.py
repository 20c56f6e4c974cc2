"""The kernels around GEMMs and attention: ``python -P -m qoq.kernels.bench.fused`` on a GPU.

Shapes are those of one Llama-3-8B layer. ``pytest -m gpu tests/kernels/gpu/test_fused.py``
compares them with their definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from qoq.kernels.bench.timing import copy_bandwidth, time_us
from qoq.kernels.gpu.rms_norm import add_rms_norm_quantize_triton
from qoq.kernels.gpu.rope_store_kv import rope_store_kv_triton
from qoq.kernels.gpu.silu_mul import silu_mul_quantize_triton
from qoq.kernels.kv_cache import KvCache, KvFormat, SlotMapping

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 4096, 14336, 32, 8, 128


class Case(NamedTuple):
    """``num_bytes`` are read or written by one call."""

    name: str
    call: Callable[[int], object]
    num_bytes: int


def main() -> None:
    copy = copy_bandwidth()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"copy {copy:.2f} TB/s"
    )
    print(f"{'kernel':24}{'tokens':>8}{'us':>9}{'TB/s':>7}{'/copy':>7}")
    for m in (16, 256, 4096):
        for case in _cases(m):
            us = time_us(case.call)
            speed = case.num_bytes / us / 1e6
            print(f"{case.name:24}{m:8}{us:9.1f}{speed:7.2f}{speed / copy:7.2f}", flush=True)


def _cases(m: int) -> Iterator[Case]:
    x, residual, gain = _random(m, HIDDEN), _random(m, HIDDEN), _random(HIDDEN)
    yield Case(
        "add rms_norm quantize",
        lambda _: add_rms_norm_quantize_triton(x, residual, gain, 1e-5),
        m * HIDDEN * (2 + 2 + 2 + 1),
    )
    gate_up = _random(m, 2 * INTERMEDIATE)
    yield Case(
        "silu mul quantize",
        lambda _: silu_mul_quantize_triton(gate_up),
        m * INTERMEDIATE * (2 + 2 + 1),
    )
    fmt = KvFormat(KV_HEADS, HEAD_DIM)
    blocks = torch.zeros(
        m // fmt.block_size + 1, fmt.block_elements, dtype=torch.uint8, device="cuda"
    )
    cache = KvCache(blocks, fmt.codes(blocks), fmt.scales(blocks))
    places = torch.arange(m, device="cuda")
    slots = SlotMapping(places // fmt.block_size, places % fmt.block_size)
    qkv = _random(m, HEADS + 2 * KV_HEADS, HEAD_DIM)
    rope = torch.randn(m, 3, HEAD_DIM // 2, device="cuda")
    yield Case(
        "rope quantize store",
        lambda _: rope_store_kv_triton(qkv, rope, cache, slots, fmt),
        m * (2 * HEADS + 2 * KV_HEADS) * HEAD_DIM * 2 + m * fmt.block_bytes // fmt.block_size,
    )


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.float16)


if __name__ == "__main__":
    main()
