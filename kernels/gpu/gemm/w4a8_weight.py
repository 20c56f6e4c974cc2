"""4-bit weights in the order in which the Triton W4A8 kernel streams them.

A box is 64 output channels by ``STEP`` = 128 input channels in 4096 contiguous bytes, row by row:
byte ``j`` of a row has input channel ``j`` in its low and ``j + 64`` in its high nibble, so that
the two halves of a box are two operands of the matrix unit and no nibble moves between threads.
Boxes of the same channels follow each other along K. K is padded to whole boxes, N to whole pairs
of boxes (a tile of 128), with codes of 0 and groups of 0.

A group's scale and offset travel as one int32, ``s | (b + 128) << 8``, in the order of the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qoq.kernels.packing import unpack_codes

ROWS = 64
PADDED_ROWS = 128
STEP = 128
HALF = STEP // 2
GROUP_SIZES = (128, 64, 32)
PAIRED = 8


@dataclass(frozen=True, slots=True)
class W4A8Weight:
    """A weight ``[n, k]`` ready for ``w4a8_gemm``.

    ``boxes`` uint8 ``[N / 64, K / 128, 64, 64]``, ``scales`` fp32 ``[n]``, and either ``groups``
    int32 ``[N / 64, K / 128, G, 64]`` (``G`` groups in 128 input channels) or ``zeros`` uint8
    ``[n]``. Where it ``is_gated``, its rows are ``pair_rows``' and the GEMM gives
    ``silu(gate) * up``.
    """

    n: int
    k: int
    boxes: Tensor
    scales: Tensor
    groups: Tensor | None
    zeros: Tensor | None
    is_gated: bool = False

    @property
    def num_outputs(self) -> int:
        """Columns of the product."""
        return self.n // 2 if self.is_gated else self.n

    @property
    def groups_per_step(self) -> int:
        """0 where the weight has one scale a channel."""
        return 0 if self.groups is None else self.groups.shape[2]


def can_pair(n: int) -> bool:
    """Whether the rows of gate and up, ``n`` in all, make whole pairs of eights."""
    return n % (2 * PAIRED) == 0


def pair_rows(rows: Tensor) -> Tensor:
    """``[n, ...]``, all of gate's before all of up's, as eight of gate's, eight of up's, and so on.

    A thread of the matrix unit holds rows ``r`` and ``r + 8`` of sixteen: gate and up of a channel.
    Raises ValueError where ``can_pair`` does not hold.
    """
    if not can_pair(len(rows)):
        raise ValueError(f"gate and up: expected a multiple of {2 * PAIRED} rows, got {len(rows)}")
    return rows.view(2, -1, PAIRED, *rows.shape[1:]).transpose(0, 1).flatten(0, 2)


def pack_per_group(
    qweight: Tensor,
    scales: Tensor,
    group_scales: Tensor,
    group_offsets: Tensor,
    is_gated: bool = False,
) -> W4A8Weight:
    """Reorder the logical tensors of ``w4a8_gemm``, on the device that they are on.

    Of a gated weight all of gate's rows come before all of up's.

    Raises:
        ValueError: a shape or dtype does not match, the group size is not 128, 64 or 32, a value
            leaves [-128, 127], or the rows of a gated weight make no pairs of eights.
    """
    n, k = qweight.shape[0], qweight.shape[1] * 2
    _check("qweight", qweight, torch.uint8, (n, k // 2))
    _check("scales", scales, torch.float32, (n,))
    num_groups = group_scales.shape[-1]
    if num_groups == 0 or k % num_groups or k // num_groups not in GROUP_SIZES:
        raise ValueError(
            f"group_scales: expected [{n}, {k} / group size], group size one of {GROUP_SIZES}, "
            f"got {list(group_scales.shape)}"
        )
    _check("group_scales", group_scales, torch.uint8, (n, num_groups))
    _check("group_offsets", group_offsets, torch.int8, (n, num_groups))
    if is_gated:
        qweight, scales = pair_rows(qweight), pair_rows(scales)
        group_scales, group_offsets = pair_rows(group_scales), pair_rows(group_offsets)
    codes = unpack_codes(qweight)
    _check_range(codes, group_scales, group_offsets)
    words = group_scales.int() | (group_offsets.int() + 128) << 8
    per_step = STEP * num_groups // k
    # A padded group is scale 0 and offset 0: weights of 0.
    padded = _pad(words, per_step, value=128 << 8)
    groups = padded.view(-1, ROWS, padded.shape[1] // per_step, per_step).permute(0, 2, 3, 1)
    return W4A8Weight(n, k, _boxes(codes), scales, groups.contiguous(), None, is_gated)


def pack_per_channel(
    qweight: Tensor, scales: Tensor, zeros: Tensor, is_gated: bool = False
) -> W4A8Weight:
    """As ``pack_per_group``, for one scale and one zero point a channel."""
    n, k = qweight.shape[0], qweight.shape[1] * 2
    _check("qweight", qweight, torch.uint8, (n, k // 2))
    _check("scales", scales, torch.float32, (n,))
    _check("zeros", zeros, torch.uint8, (n,))
    if is_gated:
        qweight, scales, zeros = pair_rows(qweight), pair_rows(scales), pair_rows(zeros)
    return W4A8Weight(n, k, _boxes(unpack_codes(qweight)), scales, None, zeros, is_gated)


def _boxes(codes: Tensor) -> Tensor:
    codes = _pad(codes, STEP, value=0)
    halves = codes.view(-1, ROWS, codes.shape[1] // STEP, 2, HALF)
    packed = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
    return packed.transpose(1, 2).contiguous()


def _pad(matrix: Tensor, columns: int, value: int) -> Tensor:
    """Rows to a multiple of ``PADDED_ROWS``, columns to one of ``columns``."""
    n, k = matrix.shape
    return functional.pad(matrix, (0, -k % columns, 0, -n % PADDED_ROWS), value=value)


def _check_range(codes: Tensor, group_scales: Tensor, group_offsets: Tensor) -> None:
    """A value out of range would carry into the three that share its 32-bit word."""
    low, high = codes.unflatten(1, (group_scales.shape[1], -1)).aminmax(dim=2)
    scales, offsets = group_scales.short(), group_offsets.short()
    is_legal = (low * scales + offsets >= -128) & (high * scales + offsets <= 127)
    if not is_legal.all():
        raise ValueError("group_offsets: a dequantized weight leaves the INT8 range")


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(
            f"{name}: expected {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
        )
