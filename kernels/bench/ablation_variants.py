"""The W4A8 GEMM without one of its ideas each, on operands of ``w4a8_gemm_triton``.

``[M, K]`` codes by ``weight``, in groups of 128; fp16 ``[M, N]``. K must be whole steps in every
split, N whole tiles.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from qoq.kernels.bench.ablation_kernels import float_groups_kernel, rows_as_stored_kernel
from qoq.kernels.gpu.gemm.w4a8_config import TileConfig
from qoq.kernels.gpu.gemm.w4a8_operands import Workspace
from qoq.kernels.gpu.gemm.w4a8_triton import _w4a8_gemm_kernel
from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations


def rows_as_stored(
    x: QuantizedActivations,
    weight: W4A8Weight,
    qweight: Tensor,
    tile: TileConfig,
    workspace: Workspace,
) -> Tensor:
    """As ``w4a8_gemm_triton``, from ``qweight`` uint8 ``[N, K / 2]`` instead of boxes.

    A register of four codes then has codes of two rows, so that they are dequantized one by one.
    """
    return _launch(
        rows_as_stored_kernel,
        tile,
        (x.codes, qweight, weight.groups, x.scales, weight.scales),
        (workspace.partials, workspace.counters),
        (x.codes.shape[0], weight.n, x.codes.stride(0), qweight.stride(0)),
        steps=weight.boxes.shape[1],
    )


def byte_by_byte(
    x: QuantizedActivations, weight: W4A8Weight, tile: TileConfig, workspace: Workspace
) -> Tensor:
    """As ``w4a8_gemm_triton``; each code takes a mask, a multiply-add and a conversion."""
    unused = x.codes
    return _launch(
        _w4a8_gemm_kernel,
        tile,
        (x.codes, weight.boxes, weight.groups, x.scales, weight.scales, unused, unused, unused),
        (workspace.partials, workspace.counters),
        (x.codes.shape[0], weight.n, weight.k, x.codes.stride(0)),
        steps=weight.boxes.shape[1],
        GROUPS=1,
        HAS_BIAS=False,
        MASK_K=False,
        ASSEMBLY=False,
        OVERLAPS=False,
        NUM_THREADS=32 * tile.num_warps,
    )


def float_groups(
    x: QuantizedActivations,
    weight: W4A8Weight,
    scales: Tensor,
    tile: TileConfig,
    workspace: Workspace,
) -> Tensor:
    """Weights ``16 * (q - 8) * scale`` times the channel's, by what ``random_scales`` makes."""
    return _launch(
        float_groups_kernel,
        tile,
        (x.codes, weight.boxes, scales, x.scales, weight.scales),
        (workspace.partials.view(torch.float32), workspace.counters),
        (x.codes.shape[0], weight.n, x.codes.stride(0)),
        steps=weight.boxes.shape[1],
        ASSEMBLY=x.codes.is_cuda,
    )


def rows_of(weight: W4A8Weight) -> Tensor:
    """The codes as a checkpoint has them, uint8 ``[N, K / 2]``."""
    return pack_codes(codes_of(weight))


def codes_of(weight: W4A8Weight) -> Tensor:
    """uint8 ``[N, K]``, padding included."""
    codes = torch.cat((weight.boxes & 15, weight.boxes >> 4), dim=-1)
    return codes.transpose(1, 2).flatten(2).flatten(0, 1)


def random_scales(weight: W4A8Weight) -> Tensor:
    """fp32 ``[N / 64, K / 128, 64]``, numbers that fp16 has."""
    return (torch.rand(weight.boxes.shape[:3], device=weight.boxes.device) + 0.1).half().float()


def _launch(
    kernel: Any,
    tile: TileConfig,
    inputs: tuple[Tensor | None, ...],
    workspace: tuple[Tensor, Tensor],
    sizes: tuple[int, ...],
    *,
    steps: int,
    **constants: Any,
) -> Tensor:
    """``sizes`` are M, N and what else the kernel takes."""
    m, n = sizes[:2]
    assert steps % tile.split_k == 0
    y = torch.empty(m, n, dtype=torch.float16, device=workspace[0].device)
    tiles = triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n)
    kernel[(tiles, tile.split_k)](
        *inputs,
        y,
        *workspace,
        *sizes,
        STEPS=steps // tile.split_k,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        SPLIT_K=tile.split_k,
        **constants,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return y
