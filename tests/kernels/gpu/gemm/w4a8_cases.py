"""Weights and activations that reach every corner of the format, and what a GEMM makes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.gpu.gemm.w4a8_weight import W4A8Weight, pack_per_channel, pack_per_group
from qoq.kernels.gpu.quantized_rows import QuantizedRows, quantize_rows
from qoq.kernels.gpu.silu_mul import silu_mul_quantize_triton
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import QuantizedActivations

U16 = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


def weight_of_every_pair(n: int, k: int, group_size: int, device: str) -> tuple[W4A8Weight, Tensor]:
    """Every scale 1..17 with every offset, codes from 0 to the largest that stays in INT8.

    Also returns the INT8 weight ``[n, k]``.
    """
    groups = torch.arange(n * k // group_size, device=device).view(n, -1)
    assert groups.numel() >= 17 * 256, "too few groups for every pair"
    scale, offset = groups % 17 + 1, groups // 17 % 256 - 128
    largest = ((127 - offset) // scale).clamp_(max=15)
    place = torch.arange(group_size, device=device)
    # 0, the largest, and what lies between, so that extremes are neighbours.
    codes = torch.where(place % 3 == 0, 0, torch.where(place % 3 == 1, largest[..., None], place))
    codes = codes.clamp_(max=15).minimum(largest[..., None])
    integers = (codes * scale[..., None] + offset[..., None]).view(n, k)
    qweight = pack_codes(codes.view(n, k).to(torch.uint8))
    scales = torch.rand(n, device=device) + 0.5
    weight = pack_per_group(qweight, scales, scale.to(torch.uint8), offset.to(torch.int8))
    return weight, integers.to(torch.int8)


def plain_and_gated(n: int, k: int, group_size: int, device: str) -> tuple[W4A8Weight, W4A8Weight]:
    """The same random rows, gate's before up's, without and with their product in the GEMM."""
    codes = pack_codes(torch.randint(0, 16, (n, k), dtype=torch.uint8, device=device))
    scales = torch.rand(n, device=device) * 1e-3 + 1e-4
    if group_size == -1:
        zeros = torch.randint(0, 16, (n,), dtype=torch.uint8, device=device)
        return pack_per_channel(codes, scales, zeros), pack_per_channel(codes, scales, zeros, True)
    shape = (n, k // group_size)
    groups = (
        torch.randint(1, 9, shape, dtype=torch.uint8, device=device),
        torch.randint(-128, 8, shape, dtype=torch.int8, device=device),
    )
    return pack_per_group(codes, scales, *groups), pack_per_group(codes, scales, *groups, True)


def assert_is_silu_mul(got: Tensor, y: Tensor) -> None:
    """``got`` ``[M, I]`` of the plain weight's ``y`` ``[M, 2 I]``, bit for bit: of an output that
    is quantized alone, the scale has the magnitude.
    """
    gate, up = y.chunk(2, dim=1)
    expected = silu_mul_quantize_triton(torch.stack((gate, up), dim=-1).view(-1, 2))
    found = QuantizedRows.allocate(got.numel(), 1, got.device)
    quantize_rows(got.view(-1, 1), found)
    assert torch.equal(found.scales, expected.scales)
    assert torch.equal(found.codes, expected.codes)


def extreme_rows(m: int, k: int, device: str) -> QuantizedActivations:
    """In turn: one code of 1, which shows single weights; all 127; all -127; signs in turn; any."""
    codes = torch.randint(-127, 128, (m, k), dtype=torch.int8, device=device)
    scales = torch.full((m, 1), 2**-10, device=device)
    codes[0::5], scales[0::5] = 0, 1.0
    rows = torch.arange(0, m, 5, device=device)
    codes[rows, rows // 5 % k] = 1
    codes[1::5] = 127
    codes[2::5] = -127
    codes[3::5] = 127 - 254 * (torch.arange(k, device=device) % 2).to(torch.int8)
    return QuantizedActivations(codes, scales)


def product(x: QuantizedActivations, integers: Tensor, scales: Tensor) -> Tensor:
    """fp32 ``[M, N]``: exact sums, rounded once, and scaled as ``int8_gemm`` does."""
    acc = x.codes.double() @ integers.double().t()
    return acc.float() * (x.scales * scales)


def assert_close_with_bias(y: Tensor, expected: Tensor, bias: Tensor) -> None:
    """Product and sum may be one rounding of fp32 or two; then one rounding to the output."""
    total = expected.double() + bias.double()
    bound = 2**-23 * (expected.abs() + bias.abs()) + U16[y.dtype] * total.abs() + 2**-25
    assert ((y.double() - total).abs() <= bound).all()


def with_stride(x: QuantizedActivations, stride: int) -> QuantizedActivations:
    wide = x.codes.new_full((x.codes.shape[0], stride), 99)
    wide[:, : x.codes.shape[1]] = x.codes
    return QuantizedActivations(wide[:, : x.codes.shape[1]], x.scales)


def head(x: QuantizedActivations, m: int) -> QuantizedActivations:
    """The first ``m`` rows."""
    return QuantizedActivations(x.codes[:m], x.scales[:m])
