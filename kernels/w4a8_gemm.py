"""W4A8: 4-bit weights against INT8 activations, exact in INT32 (QServe, arXiv 2405.04532, 4.1).

Per group, codes ``q`` with an integer scale ``s`` in 1..17 and an integer offset ``b`` for each
group: ``W8' = q * s + b``, an INT8 weight, and ``y = float(x @ W8'.T) * (s_x * s_w)``.
Per channel, codes with one zero point ``z`` a row: ``acc = x @ q.T - z * sum(x)``, the same integer
as ``x @ (q - z).T``.

Logical tensors: ``qweight`` uint8 ``[N, K / 2]`` (``packing``), ``scales`` fp32 ``[N]``,
``group_scales`` uint8 and ``group_offsets`` int8 ``[N, K / g]``, ``zeros`` uint8 ``[N]``.
On the CPU a weight is unpacked to INT8 once, when it is loaded, and goes through ``int8_gemm``:
VNNI and AMX multiply bytes, and unpacking at every step would cost more than it saves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.packing import unpack_codes
from qoq.kernels.quantize import QuantizedActivations

MAX_GROUP_SCALE = 17


def unpack_per_group(qweight: Tensor, group_scales: Tensor, group_offsets: Tensor) -> Tensor:
    """The INT8 weight ``q * s + b``, int8 ``[N, K]``.

    Raises:
        ValueError: shapes do not match, a group scale is illegal, or a value leaves [-128, 127].
    """
    n, k = qweight.shape[0], qweight.shape[1] * 2
    groups = group_scales.shape[-1]
    if group_scales.shape != (n, groups) or groups == 0 or k % groups:
        raise ValueError(
            f"group_scales: expected [{n}, groups] with groups dividing {k}, "
            f"got {list(group_scales.shape)}"
        )
    if group_scales.dtype != torch.uint8:
        raise ValueError(f"group_scales: expected uint8, got {group_scales.dtype}")
    if group_offsets.shape != group_scales.shape or group_offsets.dtype != torch.int8:
        raise ValueError(
            f"group_offsets: expected int8 {list(group_scales.shape)}, "
            f"got {group_offsets.dtype} {list(group_offsets.shape)}"
        )
    if int(group_scales.min()) < 1 or int(group_scales.max()) > MAX_GROUP_SCALE:
        raise ValueError(f"group_scales: expected values in 1..{MAX_GROUP_SCALE}")
    codes = unpack_codes(qweight).view(n, groups, -1)
    for extreme in (codes.amin(dim=2), codes.amax(dim=2)):
        value = extreme.short() * group_scales.short() + group_offsets.short()
        if int(value.min()) < -128 or int(value.max()) > 127:
            raise ValueError("group_offsets: a dequantized weight leaves the INT8 range")
    # The products may wrap, the sums are known to come back into range.
    weight = codes.view(torch.int8) * group_scales.view(torch.int8)[:, :, None]
    return weight.add_(group_offsets[:, :, None]).view(n, k)


def unpack_per_channel(qweight: Tensor, zeros: Tensor) -> Tensor:
    """The INT8 weight ``q - z``, int8 ``[N, K]``, in [-15, 15]."""
    if zeros.shape != qweight.shape[:1] or int(zeros.max()) > 15:
        raise ValueError(f"zeros: expected [{qweight.shape[0]}] in 0..15, got {list(zeros.shape)}")
    return (unpack_codes(qweight).short() - zeros[:, None].short()).to(torch.int8)


def w4a8_gemm_reference(
    x: QuantizedActivations,
    qweight: Tensor,
    scales: Tensor,
    group_scales: Tensor,
    group_offsets: Tensor,
) -> Tensor:
    """The per-group definition from the packed tensors, fp32 ``[M, N]``."""
    low, high = (qweight & 15).long(), (qweight >> 4).long()
    codes = torch.stack((low, high), dim=-1).flatten(1)
    size = codes.shape[1] // group_scales.shape[1]
    s = group_scales.long().repeat_interleave(size, dim=1)
    b = group_offsets.long().repeat_interleave(size, dim=1)
    acc = x.codes.long() @ (codes * s + b).t()
    return acc.float() * (x.scales * scales)


def w4a8_gemm_per_channel_reference(
    x: QuantizedActivations, qweight: Tensor, scales: Tensor, zeros: Tensor
) -> Tensor:
    """The per-channel definition: raw codes, the zero point through the sum of the codes."""
    low, high = (qweight & 15).long(), (qweight >> 4).long()
    codes = torch.stack((low, high), dim=-1).flatten(1)
    acc = x.codes.long() @ codes.t() - x.sums.long()[:, None] * zeros.long()
    return acc.float() * (x.scales * scales)
