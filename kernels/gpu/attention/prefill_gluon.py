"""Causal attention over dequantized keys and values, in Gluon, for Hopper (sm_90).

After FlashAttention-3 (Shah et al., arXiv 2407.08608): blocks of threads that stay on their
multiprocessor, one warp that fetches tiles by TMA into two rings, and two warp groups, each with 64
rows of a program. A group multiplies the next tile's scores while it exponentiates this tile's,
and one group's softmax overlaps the other's products. Queries and tiles are as in
``prefill_triton``; a tile that a row does not see leaves its sums their bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from qoq.kernels.gpu.attention.partial_softmax import LOG2_E
from qoq.kernels.gpu.attention.prefill_gluon_kernel import _prefill_hopper_kernel
from qoq.kernels.gpu.attention.prefill_plan import PrefillPlan
from qoq.kernels.kv_cache import KvFormat

REGISTERS = 240  # of a thread that multiplies; the warps that do not keep 24


class HopperPrefill(NamedTuple):
    """``tile`` tokens of keys a step, at most 128, and stages of either ring.

    ``issues_first`` makes the compiler issue the next tile's scores before this tile's softmax,
    for 64 more moves a tile; bits do not depend on it.
    """

    tile: int
    num_stages: int
    issues_first: bool = True


def attend_hopper(
    q: Tensor,
    scratch: Tensor,
    plan: PrefillPlan,
    heads: range,
    fmt: KvFormat,
    softmax_scale: float,
    config: HopperPrefill,
    out: Tensor,
) -> None:
    """The query heads that share kv ``heads``, which ``scratch`` holds, from ``q`` to ``out``."""
    num_items = plan.num_programs * len(heads)
    device = torch.cuda.get_device_properties(q.device)
    _prefill_hopper_kernel[(min(num_items, device.multi_processor_count),)](
        TensorDescriptor.from_tensor(scratch, [config.tile, scratch.shape[1]], _layout()),
        q,
        out,
        plan.programs,
        plan.num_programs,
        num_items,
        plan.num_rows,
        heads.start,
        plan.window or 1 << 30,
        softmax_scale * LOG2_E,
        D=fmt.head_dim,
        HEADS=fmt.num_kv_heads,
        GROUP=q.shape[1] // fmt.num_kv_heads,
        STAGES=config.num_stages,
        HAS_WINDOW=plan.window is not None,
        ISSUES_FIRST=config.issues_first,
        REGISTERS=REGISTERS,
        num_warps=4,
    )


def _layout() -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout(128, 16, 2)
