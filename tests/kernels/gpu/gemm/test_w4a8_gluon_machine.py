"""The Gluon W4A8 GEMM's own source on a machine of numpy: its numbers, and its barriers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton, which torch's CPU builds leave out")

from qoq.kernels.gpu.gemm import w4a8_gluon
from qoq.kernels.gpu.gemm.w4a8_config import MAX_STRIPS, STREAM_K, HopperTile
from qoq.kernels.gpu.gemm.w4a8_gluon_kernel import _w4a8_kernel
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_weight import (
    ROWS,
    W4A8Weight,
    pack_per_channel,
    pack_per_group,
)
from qoq.kernels.gpu.quantized_rows import QuantizedRows
from qoq.kernels.gpu.sizes import next_power_of_2, round_up
from qoq.kernels.packing import pack_codes

from .gluon_machine import Array, Descriptor, Machine, Pointer, array, interpreted

TILES = [
    HopperTile(16, 3, 2, channels=64),
    HopperTile(16, 2, 4, channels=64),
    HopperTile(64, 4, 2, takes_turns=True, channels=64),
    HopperTile(32, 2, 4, takes_turns=True, channels=64),
    HopperTile(16, 4, 2),
    HopperTile(32, 3, takes_turns=True),
    HopperTile(256, 2),
    HopperTile(64, 3, channels=256),
    HopperTile(128, 2, channels=256),
    HopperTile(96, 3),
    HopperTile(96, 2, channels=256),
    HopperTile(160, 2, 2, takes_turns=True),
    HopperTile(192, 2),
    HopperTile(224, 2),
]


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("split_k", [1, 2, STREAM_K])
def test_equals_the_definition(
    tile: HopperTile, split_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends of M, N and K within tiles and stages, blocks of threads with several tiles each."""
    tile = tile._replace(split_k=split_k)
    workspace = Workspace(torch.device("cpu"), 1 << 20)
    lots = np.random.default_rng(TILES.index(tile._replace(split_k=1)) + 10 * split_k)
    torch.manual_seed(split_k)
    for group_size, k in ((128, 640), (64, 576), (-1, 1088)):
        most = most_rows(tile)
        m, n = int(lots.choice([1, 17, most, most - 20])), int(lots.choice([72, 200]))
        num_blocks = int(lots.choice([1, 2, 5, 16]))
        monkeypatch.setattr(w4a8_gluon, "_num_multiprocessors", lambda _, count=num_blocks: count)
        weight, integers = random_weight(n, k, group_size)
        x = torch.randint(-127, 128, (m, k), dtype=torch.int8)
        x_scales, bias = torch.rand(m, 1) + 0.5, torch.randn(n)
        acc = (x.double() @ integers.double().t()).float()
        expected = acc * (x_scales * weight.scales) + bias
        got = multiply(x, x_scales, weight, bias, tile, workspace, int(lots.integers(1 << 30)))
        assert torch.equal(got, expected), (m, n, k, num_blocks)
        assert not workspace.counters.any()


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_a_gated_weight_gives_silu_mul(tile: HopperTile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of gate and up rounded to fp16, whole or split, with and without half a tile at the end."""
    workspace = Workspace(torch.device("cpu"), 1 << 20)
    torch.manual_seed(TILES.index(tile))
    monkeypatch.setattr(w4a8_gluon, "_num_multiprocessors", lambda _: 3)
    for split_k, group_size, n, k in ((1, 128, 80, 640), (STREAM_K, -1, 208, 1088)):
        tile = tile._replace(split_k=split_k)
        weight, integers = random_weight(n, k, group_size)
        weight = replace(weight, is_gated=True)
        m = most_rows(tile)
        x = torch.randint(-127, 128, (m, k), dtype=torch.int8)
        x_scales, bias = torch.rand(m, 1) * 2**-15, torch.randn(n)
        acc = (x.double() @ integers.double().t()).float()
        y = (acc * (x_scales * weight.scales) + bias).half().float()
        gate, up = y.unflatten(1, (-1, 2, 8)).movedim(2, 0).numpy()
        expected = torch.from_numpy(gate / (np.exp(-gate) + 1) * up)
        got = multiply(x, x_scales, weight, bias, tile, workspace, split_k, torch.float16)
        assert torch.equal(got, expected.half().flatten(1)), (n, k, tile)
        assert not workspace.counters.any()


def most_rows(tile: HopperTile) -> int:
    """Enough to reach into every strip of a tile, and into a second tile."""
    return tile.block_m + 9 if len(tile.strips) > 1 else 70


def random_weight(n: int, k: int, group_size: int) -> tuple[W4A8Weight, Tensor]:
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scales = torch.rand(n) + 0.5
    if group_size == -1:
        zeros = torch.randint(0, 16, (n,), dtype=torch.uint8)
        return pack_per_channel(pack_codes(codes), scales, zeros), codes.int() - zeros.int()[
            :, None
        ]
    group_scales = torch.randint(1, 9, (n, k // group_size), dtype=torch.uint8)
    offsets = torch.randint(-128, 8, (n, k // group_size), dtype=torch.int8)
    spread = codes.view(n, -1, group_size).int() * group_scales[..., None].int()
    integers = (spread + offsets[..., None].int()).view(n, k)
    return pack_per_group(pack_codes(codes), scales, group_scales, offsets), integers


def multiply(
    x: Tensor,
    x_scales: Tensor,
    weight: W4A8Weight,
    bias: Tensor,
    tile: HopperTile,
    workspace: Workspace,
    seed: int,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``[M, N]``, of a gated weight ``[M, N / 2]``: as ``w4a8_gemm_gluon``.

    Block after block: each may wait for those before it.
    """
    m, n, groups = len(x), weight.n, weight.groups_per_step
    shares = w4a8_gluon._Shares.of(m, weight, tile, workspace)
    y_block = w4a8_gluon.stored_block(tile, weight.is_gated)
    y = torch.full((m, weight.num_outputs), torch.nan, dtype=out_dtype)
    sums = x.sum(1, dtype=torch.int32)
    line = [next_power_of_2(tile.block_m)]
    x_descs = [Descriptor(x.numpy(), [strip, 64]) for strip in tile.strips]
    operands = [
        *x_descs,
        *[None] * (MAX_STRIPS - len(x_descs)),
        Descriptor(weight.boxes.view(-1, 64).numpy(), [ROWS, 64]),
        Descriptor((sums if weight.groups is None else weight.groups.view(-1)).numpy(), [ROWS]),
        Descriptor(x_scales.view(-1).numpy(), line),
        Descriptor(sums.numpy(), line),
        Descriptor(y.numpy(), y_block),
    ]
    zeros = weight.scales if weight.zeros is None else weight.zeros
    for tensor in (weight.scales, zeros, bias, workspace.partials, workspace.counters):
        operands.append(Pointer(tensor.numpy()))
    sizes = (n, weight.boxes.shape[1], shares.tiles_m, shares.tiles_n, shares.steps, shares.share)
    for block in range(shares.num_blocks):
        machine = Machine(seed + block, block, shares.num_blocks)
        kernel = interpreted(_w4a8_kernel, machine, dequantize=dequantize, only_codes=nibbles)
        kernel(
            *operands,
            *sizes,
            BLOCK_M=tile.block_m,
            GROUPS=groups,
            STAGES=min(tile.num_stages, shares.steps),
            BOXES=tile.boxes,
            PARTS=tile.parts,
            HEIGHT=tile.channels // tile.parts,
            CHUNKS=w4a8_gluon.chunks(tile, weight.is_gated),
            HAS_BIAS=True,
            IS_GATED=weight.is_gated,
            TAKES_TURNS=tile.takes_turns,
            MULTIPLY_REGISTERS=0,
            FETCH_REGISTERS=0,
        )
    return y


def nibbles(w: Array, is_high: bool) -> Array:
    return array((w >> 4 if is_high else w & 15).astype(np.int8))


def dequantize(w: Array, group: Array, is_high: bool) -> Array:
    scale, offset = (group & 0xFF)[:, None], (group >> 8)[:, None] - 128
    return array((nibbles(w, is_high) * scale + offset).astype(np.int8))


def test_tma_reads_whole_tiles_where_there_is_memory_behind_the_rows() -> None:
    """And no further than that memory reaches."""
    layout = w4a8_gluon._layouts(64)[0]
    rows = QuantizedRows.allocate(91, 128, torch.device("cpu"))
    exact = torch.zeros(91, 128, dtype=torch.int8)
    for codes, block_m, expected in (
        (rows.codes, 128, 128),
        (rows.codes, 64, 128),
        (rows.codes[:17], 16, 32),
        (rows.codes[:17], 256, 128),
        (exact, 128, 91),
        (exact[64:, :64], 16, 27),
    ):
        num_rows = round_up(len(codes), block_m)
        described = w4a8_gluon._whole_tiles(codes, num_rows, [block_m, 64], layout)
        assert described.shape == [expected, codes.shape[1]], (len(codes), block_m)


def test_k_is_cut_where_all_shares_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w4a8_gluon, "_num_multiprocessors", lambda _: 4)
    weight, _ = random_weight(256, 1024, 128)
    workspace, tiny = Workspace(torch.device("cpu"), 1 << 20), Workspace(torch.device("cpu"), 64)
    for split_k, m, blocks_per_sm, expected in (
        (1, 16, 1, False),
        (2, 16, 1, True),
        (4, 16, 1, False),
        (4, 16, 2, True),
        (2, 17, 1, False),
        (STREAM_K, 17, 1, True),
    ):
        tile = HopperTile(16, 4, 1, split_k, blocks_per_sm)
        found = w4a8_gluon.cuts_k(m, weight, tile, workspace)
        assert found is expected, (split_k, m, blocks_per_sm)
        assert not w4a8_gluon.cuts_k(m, weight, tile, tiny), "no room for the sums"
