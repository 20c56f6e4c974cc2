"""W4A8 GEMM, checked against its definition, beside cuBLAS in bf16 and FP8 and ``torch._int_mm``;
and the sweep over all that might be the fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qoq.kernels.bench.peer import Peer, checked_call
from qoq.kernels.bench.timing import time_us
from qoq.kernels.gpu.gemm.w4a8 import W4A8Gemm, multiply
from qoq.kernels.gpu.gemm.w4a8_config import STREAM_K, Config, HopperTile, TileConfig
from qoq.kernels.gpu.gemm.w4a8_gluon import cuts_k
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight, pack_per_channel, pack_per_group
from qoq.kernels.gpu.quantized_rows import QuantizedRows, quantize_rows
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2, round_up
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations

# One layer of Llama-3-8B, one of Llama-2-70B: N, K.
SHAPES = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "qkv-70b": (10240, 8192),
    "o-70b": (8192, 8192),
    "gate_up-70b": (57344, 8192),
    "down-70b": (8192, 28672),
}
L2_BYTES = 160 << 20  # operands rotate through more than this


def candidates(m: int, arch: int) -> Iterator[Config]:
    """Worth trying for ``m`` tokens on compute capability ``arch``."""
    if arch == 90:
        yield from hopper_candidates(m)
    else:
        yield from portable_candidates(m, overlaps=arch >= 90)


def portable_candidates(m: int, overlaps: bool) -> Iterator[TileConfig]:
    if m <= 32:
        block_m = 16 if m <= 16 else 32
        for block_n, stages in ((64, 5), (64, 8), (128, 4)):
            for split_k in (1, 2, 4, 8):
                yield TileConfig(block_m, block_n, 4, stages, split_k, overlaps)
    elif m <= 64:
        for block_n, stages in ((64, 4), (128, 4)):
            for split_k in (1, 2, 4, 8):
                yield TileConfig(64, block_n, 4, stages, split_k, overlaps)
    else:
        for split_k in (1, 2, 4) if m <= 512 else (1,):
            yield TileConfig(128, 128, 8, 3, split_k, overlaps)
            yield TileConfig(64, 128, 4, 4, split_k, overlaps)


def hopper_candidates(m: int) -> Iterator[HopperTile]:
    if m <= 32:
        block_m = 16 if m <= 16 else 32
        for split_k in _splits(m):
            yield HopperTile(block_m, 5, 2, split_k)
            if m <= 16:
                yield HopperTile(block_m, 4, 2, split_k, 2)
    elif m <= 512:
        for split_k in _splits(m):
            yield HopperTile(64, 4, 2, split_k)
            if m > 64:
                yield HopperTile(128, 6, 1, split_k)
        yield HopperTile(64, 6)
        yield HopperTile(64, 5, 1, 1, 2)
    else:
        for split_k in _splits(m):
            yield HopperTile(128, 6, 1, split_k)
    if m > 32:
        yield from high_candidates(m)
        yield from strip_candidates(m)
    if m > 128:
        for split_k in _splits(m):
            yield HopperTile(256, 4, 1, split_k)
            yield HopperTile(256, 4, 1, split_k, takes_turns=True)
    if m <= 512:
        yield from narrow_candidates(m)


def _splits(m: int) -> tuple[int, ...]:
    """Where tiles are many, those computed at a time should share operands in the L2."""
    return (1, STREAM_K, 2, 4) if m <= 512 else (1, STREAM_K) if m <= 2048 else (1,)


def high_candidates(m: int) -> Iterator[HopperTile]:
    """Of 256 channels, for where it is reading activations that takes long."""
    for split_k in _splits(m):
        yield HopperTile(64, 8, 1, split_k, channels=256)
        if m > 64:
            yield HopperTile(128, 5, 1, split_k, channels=256)
            yield HopperTile(128, 5, 1, split_k, takes_turns=True, channels=256)


def strip_candidates(m: int) -> Iterator[HopperTile]:
    """Of a size between two powers of two, for where it leaves fewer rows idle than the larger one
    and makes fewer tiles than the next smaller size.
    """
    smaller = 64
    for block_m in (96, 128, 160, 192, 224):
        fits = round_up(m, block_m) < round_up(m, next_power_of_2(block_m))
        if fits and cdiv(m, block_m) < cdiv(m, smaller):
            for split_k in _splits(m):
                if block_m == 96:
                    yield HopperTile(96, 4, 2, split_k)
                    yield HopperTile(96, 6, 1, split_k, channels=256)
                else:
                    stages = 6 if block_m == 160 else 5
                    yield HopperTile(block_m, stages, 1, split_k, takes_turns=True)
        smaller = block_m


def narrow_candidates(m: int) -> Iterator[HopperTile]:
    """Of 64 channels, for where tiles of 128 leave multiprocessors idle."""
    if m > 64:
        yield HopperTile(64, 8, 2, channels=64)
        yield HopperTile(128, 4, 2, takes_turns=True, channels=64)
        return
    block_m = 16 if m <= 16 else 32 if m <= 32 else 64
    for stages, boxes in ((4, 4), (8, 2)):
        for split_k in (1, STREAM_K, 2):
            yield HopperTile(block_m, stages, boxes, split_k, channels=64)


@dataclass(frozen=True, slots=True)
class Operands:
    """A random legal weight: its INT8 values ``[N, K]``, and copies of its packed form."""

    integers: Tensor
    copies: list[W4A8Weight]


def random_weight(n: int, k: int, group_size: int, num_copies: int) -> Operands:
    """``group_size`` -1 is per channel. Offsets and scales cover all that is legal."""
    codes = torch.randint(0, 16, (n, k), device="cuda", dtype=torch.uint8)
    scales = torch.rand(n, device="cuda") * 1e-3 + 1e-4
    if group_size == -1:
        zeros = torch.randint(0, 16, (n,), device="cuda", dtype=torch.uint8)
        integers = codes.to(torch.int8) - zeros.to(torch.int8)[:, None]
        weight = pack_per_channel(pack_codes(codes), scales, zeros)
    else:
        shape = (n, k // group_size)
        group_scales = torch.randint(1, 18, shape, device="cuda", dtype=torch.uint8)
        room = 255 - 15 * group_scales.float()
        offsets = (torch.rand(shape, device="cuda") * (room + 1)).floor().clamp_(max=room) - 128
        spread = codes.view(n, -1, group_size).short() * group_scales[..., None].short()
        integers = (spread + offsets[..., None].short()).view(n, k).to(torch.int8)
        weight = pack_per_group(pack_codes(codes), scales, group_scales, offsets.to(torch.int8))
    copies = [weight, *(_copy(weight) for _ in range(num_copies - 1))]
    return Operands(integers, copies)


def random_activations(m: int, k: int) -> QuantizedActivations:
    rows = QuantizedRows.allocate(m, k, torch.device("cuda"))
    torch.randint(-127, 128, (m, k), device="cuda", dtype=torch.int8, out=rows.codes)
    rows.codes[0] = 127
    rows.scales.uniform_(1e-3, 1.1e-2)
    return rows.activations


def reference(x: QuantizedActivations, operands: Operands) -> Tensor:
    """fp16 ``[M, N]`` by exact products in float64, a slice of rows at a time."""
    weight = operands.copies[0]
    rows = []
    for part, scales in zip(x.codes.split(512), x.scales.split(512), strict=True):
        acc = part.double() @ operands.integers.double().t()
        rows.append((acc.float() * (scales * weight.scales)).half())
    return torch.cat(rows)


@dataclass(frozen=True, slots=True)
class Best:
    m: int
    config: Config
    us: float


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds by contender."""

    shape: str
    best: Best
    bf16_us: float
    fp8_us: float | None
    int8_us: float | None
    peer_us: float | None


def sweep(n: int, k: int, group_size: int, ms: list[int], is_timed: bool = True) -> Iterator[Best]:
    """The fastest candidate for each M behind the kernel that quantizes its activations: what a
    GEMM does before these are there counts nothing in a layer. Every one is checked before it is
    timed; ``us`` are its own.

    Raises AssertionError where a candidate's result differs from the definition.
    """
    operands = random_weight(n, k, group_size, max(2, -(-L2_BYTES // (n * k // 2))))
    workspace, arch = Workspace(torch.device("cuda")), device_arch()
    for m in ms:
        x = random_activations(m, k)
        expected = reference(x, operands)
        timed = []
        for config in candidates(m, arch):
            if _stays_whole(m, config, operands.copies[0], workspace):
                continue
            got = multiply(x, operands.copies[0], config, workspace)
            assert torch.equal(got, expected), f"{n} x {k}, M={m} {config}: wrong result"
            us = time_us(_in_layer(m, k, operands, config, workspace)) if is_timed else 0.0
            timed.append((us, config))
        _, config = min(timed, key=lambda pair: pair[0])
        us = time_us(_ours(x, operands, config, workspace)) if is_timed else 0.0
        yield Best(m, config, us)


def _stays_whole(m: int, config: Config, weight: W4A8Weight, workspace: Workspace) -> bool:
    """Whether K would stay whole for all that ``config`` says."""
    if not isinstance(config, HopperTile) or config.split_k == 1:
        return False
    return not cuts_k(m, weight, config, workspace)


def compare(name: str, ms: list[int], group_size: int, peer: Peer | None = None) -> Iterator[Row]:
    """What serving would run, beside the baselines and ``peer``. Raises AssertionError for a wrong
    result.
    """
    n, k = SHAPES[name]
    operands = random_weight(n, k, group_size, max(2, -(-L2_BYTES // (n * k // 2))))
    gemm = W4A8Gemm(torch.device("cuda"))
    bf16 = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    fp8 = [weight.to(torch.float8_e4m3fn) for weight in bf16]
    int8 = [torch.randint(-127, 128, (n, k), device="cuda", dtype=torch.int8) for _ in range(3)]
    for m in ms:
        x, weight = random_activations(m, k), operands.copies[0]
        assert torch.equal(gemm(x, weight), reference(x, operands)), f"{name} M={m}: wrong result"
        config = gemm.choose(x, weight)
        us = time_us(_ours(x, operands, config, gemm.workspace))
        yield Row(name, Best(m, config, us), *_baselines(m, k, bf16, fp8, int8, peer))


def device_arch() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _ours(
    x: QuantizedActivations, operands: Operands, config: Config, workspace: Workspace
) -> Callable[[int], Tensor]:
    copies, sums = operands.copies, x.sums
    return lambda index: multiply(x, copies[index % len(copies)], config, workspace, x_sums=sums)


def _in_layer(
    m: int, k: int, operands: Operands, config: Config, workspace: Workspace
) -> Callable[[int], Tensor]:
    """With the activations' quantization in front."""
    copies = operands.copies
    hidden = torch.randn(m, k, dtype=torch.float16, device="cuda")
    rows = QuantizedRows.allocate(m, k, hidden.device)

    def call(index: int) -> Tensor:
        quantize_rows(hidden, rows)
        weight = copies[index % len(copies)]
        return multiply(rows.activations, weight, config, workspace, x_sums=rows.sums)

    return call


def _baselines(
    m: int,
    k: int,
    bf16: list[Tensor],
    fp8: list[Tensor],
    int8: list[Tensor],
    peer: Peer | None,
) -> tuple[float, float | None, float | None, float | None]:
    """cuBLAS in bf16 and FP8, and ``torch._int_mm``, each from the M on that it takes; ``peer``."""
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    bf16_us = time_us(lambda i: torch.mm(x, bf16[i % 3].t()))
    x8, one = x.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    codes = torch.randint(-127, 128, (m, k), device="cuda", dtype=torch.int8)

    peer_mm = None if peer is None else checked_call(peer, bf16, x)

    def fp8_mm(i: int) -> Tensor:
        return torch._scaled_mm(
            x8, fp8[i % 3].t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return (
        bf16_us,
        time_us(fp8_mm) if m >= 16 else None,
        time_us(lambda i: torch._int_mm(codes, int8[i % 3].t())) if m > 16 else None,
        None if peer_mm is None else time_us(lambda i: peer_mm(i % 3)),
    )


def _copy(weight: W4A8Weight) -> W4A8Weight:
    groups = None if weight.groups is None else weight.groups.clone()
    return W4A8Weight(weight.n, weight.k, weight.boxes.clone(), weight.scales, groups, weight.zeros)
