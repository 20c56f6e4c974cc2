"""W4A8 GEMM in Gluon for Hopper (sm_90): the same operands and the same bits as ``w4a8_triton``.

One block of threads on each multiprocessor stays there and works through its share of the output.
Two warps fetch by TMA, one the weights and one the activations, into a ring of stages; two warp
groups multiply, each its own channels or, where tiles are narrow, each every other part of K, and
then the first adds up what both have. While one of them dequantizes, the other keeps the tensor
cores busy. Weights are operand A, dequantized in registers (see ``w4a8_triton``); int8 ``wgmma``
sums in int32. The warp for the weights does not wait for the kernel in front (programmatic
dependent launch), the one for the activations does.

K may be cut where tiles are too few: into equal parts, or so that every block gets the same number
of stages (stream-K; Osama et al., arXiv 2301.03598). Later parts of a tile leave int32 partial sums
in the workspace for its first: exact, in any order. A block computes its share of a tile that
another began before it begins one itself, and so has what it waits for, as a rule, by then.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from qoq.kernels.gpu.gemm.w4a8_config import MAX_STRIPS, STREAM_K, HopperTile
from qoq.kernels.gpu.gemm.w4a8_gluon_kernel import _w4a8_kernel
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace, check_operands
from qoq.kernels.gpu.gemm.w4a8_weight import ROWS, W4A8Weight
from qoq.kernels.gpu.sizes import cdiv, next_power_of_2
from qoq.kernels.quantize import QuantizedActivations

STORED = 8192  # outputs of a warp group, in shared memory at a time


class _Shares(NamedTuple):
    """``tiles_m`` by ``tiles_n`` tiles of ``steps`` stages each; a block of threads gets ``share``
    stages in a row, or with 0 every ``num_blocks``-th tile, which is so too where shares would not
    all run at once: blocks wait for each other.
    """

    num_blocks: int
    tiles_m: int
    tiles_n: int
    steps: int
    share: int

    @classmethod
    def of(cls, m: int, weight: W4A8Weight, tile: HopperTile, workspace: Workspace) -> _Shares:
        tiles_m, tiles_n = cdiv(m, tile.block_m), cdiv(weight.n, tile.channels)
        tiles, steps = tiles_m * tiles_n, cdiv(weight.boxes.shape[1], tile.boxes)
        num_blocks = _num_multiprocessors(weight.boxes.device) * tile.blocks_per_sm
        share = cdiv(steps, tile.split_k or 1)
        if tile.split_k == STREAM_K:
            share = cdiv(tiles * steps, num_blocks)
        num_shares = cdiv(tiles * steps, share)
        partials = num_shares * tile.channels * tile.block_m
        runs_at_once = num_shares <= num_blocks
        if tile.split_k == 1 or not runs_at_once or not workspace.fits(tiles, partials):
            return cls(min(num_blocks, tiles), tiles_m, tiles_n, steps, 0)
        return cls(num_shares, tiles_m, tiles_n, steps, share)


@cache
def _num_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def cuts_k(m: int, weight: W4A8Weight, tile: HopperTile, workspace: Workspace) -> bool:
    """Whether K is cut as ``tile`` says: all shares run at once and find room for their sums."""
    return _Shares.of(m, weight, tile, workspace).share > 0


def can_run(x: QuantizedActivations, weight: W4A8Weight, out_dtype: torch.dtype) -> bool:
    """Whether TMA can address the operands: rows of 16 bytes, groups of 64 or more, and 16 bits an
    output.
    """
    codes = x.codes
    aligned = codes.data_ptr() % 16 == 0 and x.scales.data_ptr() % 16 == 0
    return (
        aligned
        and out_dtype.itemsize == 2
        and codes.stride(0) % 16 == 0
        and weight.num_outputs % 8 == 0
        and weight.groups_per_step <= 2
        and codes.shape[0] > 0
    )


def w4a8_gemm_gluon(
    x: QuantizedActivations,
    weight: W4A8Weight,
    tile: HopperTile,
    workspace: Workspace,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    x_sums: Tensor | None = None,
) -> Tensor:
    """As ``w4a8_gemm_triton``; ``can_run`` must hold.

    Raises:
        ValueError: a shape, dtype or device does not match; the message names the tensor.
    """
    check_operands(x, weight, bias)
    m = x.codes.shape[0]
    y = torch.empty(m, weight.num_outputs, dtype=out_dtype, device=x.codes.device)
    shares = _Shares.of(m, weight, tile, workspace)
    groups = weight.groups_per_step
    sums = workspace.counters  # where no zero point needs sums, any int32 memory will do
    if weight.zeros is not None:
        sums = (x.sums if x_sums is None else x_sums).view(-1)
    y_block = stored_block(tile, weight.is_gated)
    half, line, swizzled = _layouts(y_block[1])
    num_rows = shares.tiles_m * tile.block_m
    x_descs = [_whole_tiles(x.codes, num_rows, [strip, 64], half) for strip in tile.strips]
    one_line = [next_power_of_2(tile.block_m)]
    _w4a8_kernel[(shares.num_blocks,)](
        *x_descs,
        *[None] * (MAX_STRIPS - len(x_descs)),
        TensorDescriptor.from_tensor(weight.boxes.view(-1, 64), [ROWS, 64], half),
        TensorDescriptor.from_tensor(
            (weight.groups if weight.groups is not None else workspace.counters).view(-1),
            [ROWS],
            line,
        ),
        _whole_tiles(x.scales.view(-1), num_rows, one_line, line),
        _whole_tiles(sums, num_rows, one_line, line),
        TensorDescriptor.from_tensor(y, y_block, swizzled),
        weight.scales,
        weight.scales if weight.zeros is None else weight.zeros,
        weight.scales if bias is None else bias,
        workspace.partials,
        workspace.counters,
        weight.n,
        weight.boxes.shape[1],
        shares.tiles_m,
        shares.tiles_n,
        shares.steps,
        shares.share,
        BLOCK_M=tile.block_m,
        GROUPS=groups,
        STAGES=min(tile.num_stages, shares.steps),
        BOXES=tile.boxes,
        PARTS=tile.parts,
        HEIGHT=tile.channels // tile.parts,
        CHUNKS=chunks(tile, weight.is_gated),
        HAS_BIAS=bias is not None,
        IS_GATED=weight.is_gated,
        TAKES_TURNS=tile.takes_turns,
        num_warps=4,
        launch_pdl=True,
        **registers(tile),
    )
    return y


def _whole_tiles(
    rows: Tensor, num_rows: int, block: list[int], layout: gl.NVMMASharedLayout
) -> TensorDescriptor:
    """Of ``num_rows``, as far as there is memory behind the last of ``rows``: TMA takes up to 1.3
    times as long for a block that ends within. What lies there goes into outputs that nobody
    stores.
    """
    memory = rows.untyped_storage().nbytes() // rows.element_size() - rows.storage_offset()
    num_rows = max(len(rows), min(num_rows, memory // rows.stride(0)))
    shape = [num_rows, *rows.shape[1:]]
    return TensorDescriptor(rows, shape, list(rows.stride()), block, layout)


def registers(tile: HopperTile) -> dict[str, int]:
    """A thread's: those that fetch lend theirs to those that multiply. Two blocks of threads on a
    multiprocessor leave 80.
    """
    if tile.blocks_per_sm == 2:
        return {"MULTIPLY_REGISTERS": 104, "FETCH_REGISTERS": 24, "maxnreg": 80}
    multiply, fetch = (232, 40) if tile.channels == 256 else (240, 24)
    if len(tile.strips) > 1:
        multiply, fetch = 232, 32
    return {"MULTIPLY_REGISTERS": multiply, "FETCH_REGISTERS": fetch}


def stored_block(tile: HopperTile, is_gated: bool) -> list[int]:
    """Tokens and channels of a warp group that TMA stores at a time: of 16 KiB, or all it has."""
    channels = _stored_channels(tile, is_gated)
    return [min(tile.strips[-1], STORED // channels), channels]


def chunks(tile: HopperTile, is_gated: bool) -> int:
    """Of a strip, which go through shared memory one after the other."""
    return cdiv(tile.strips[0] * _stored_channels(tile, is_gated), STORED)


def _stored_channels(tile: HopperTile, is_gated: bool) -> int:
    height = tile.channels // tile.parts
    return min(height // 2 if is_gated else height, ROWS)


@cache
def _layouts(
    channels: int,
) -> tuple[gl.NVMMASharedLayout, gl.NVMMASharedLayout, gl.NVMMASharedLayout]:
    """In shared memory: of 64-byte rows, of one-dimensional data, and of ``channels`` a token."""
    return (
        gl.NVMMASharedLayout(64, 8, 2),
        gl.NVMMASharedLayout(0, 32, 1),
        gl.NVMMASharedLayout(2 * channels, 16, 2),
    )
