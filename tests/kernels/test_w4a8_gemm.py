"""Packed 4-bit weights unpack to the INT8 weights of the format, and multiply exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.int8_gemm import int8_gemm
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import quantize_activations
from qoq.kernels.w4a8_gemm import (
    unpack_per_channel,
    unpack_per_group,
    w4a8_gemm_per_channel_reference,
    w4a8_gemm_reference,
)

from .closeness import assert_same_bits

ALL_CODES = pack_codes(torch.arange(16, dtype=torch.uint8))  # [8]


def one_group_rows(pairs: list[tuple[int, int]], packed: Tensor = ALL_CODES):
    """A weight with a row, of one group, for each scale and offset."""
    s, b = torch.tensor(pairs).t().unsqueeze(2).unbind()
    return packed.expand(len(pairs), -1), s.to(torch.uint8), b.to(torch.int8)


def random_weight(n: int, k: int, group_size: int):
    """Legal by construction: the offset is drawn from what the scale leaves of [-128, 127]."""
    groups = k // group_size
    qweight = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8)
    scales = torch.randint(1, 17 + 1, (n, groups))
    room = 256 - 15 * scales
    offsets = (torch.rand(n, groups) * room).floor().long() - 128
    return qweight, scales.to(torch.uint8), offsets.to(torch.int8)


@pytest.mark.parametrize("scale", range(1, 17 + 1))
def test_every_legal_scale_and_offset_unpacks_exactly(scale: int):
    """All codes at all legal offsets: fails if a product that wraps does not come back."""
    offsets = range(-128, 127 - 15 * scale + 1)
    weight = unpack_per_group(*one_group_rows([(scale, b) for b in offsets]))
    expected = torch.tensor([[q * scale + b for q in range(16)] for b in offsets])
    assert weight.dtype == torch.int8
    assert torch.equal(weight.long(), expected)


@pytest.mark.parametrize("scale", range(1, 17 + 1))
def test_every_illegal_offset_is_refused(scale: int):
    """The first offset past the range already is; wrapped weights would be nonsense."""
    for offset in range(128 - 15 * scale, 128):
        with pytest.raises(ValueError, match="^group_offsets: .*INT8 range"):
            unpack_per_group(*one_group_rows([(1, 0), (scale, offset)]))


def test_the_range_is_of_the_codes_in_use():
    """(17, 0) overflows at code 8 and up alone, so a group without those is legal."""
    low = pack_codes(torch.arange(8, dtype=torch.uint8))
    weight = unpack_per_group(*one_group_rows([(17, 0)], low))
    assert weight.tolist() == [[17 * q for q in range(7 + 1)]]


@pytest.mark.parametrize("scale", [0, 18, 255])
def test_illegal_scales_are_refused(scale: int):
    with pytest.raises(ValueError, match=r"^group_scales: expected values in 1\.\.17"):
        unpack_per_group(*one_group_rows([(1, 0), (scale, -128)]))


def test_messages_name_the_tensor():
    qweight, scales, offsets = random_weight(4, 64, 32)
    for bad in (scales[:3], scales.expand(4, 2)[:, :0], scales.repeat(1, 3)[:, :3], scales[0]):
        with pytest.raises(ValueError, match="^group_scales: expected"):
            unpack_per_group(qweight, bad, offsets)
    for dtype in (torch.int64, torch.float32):
        with pytest.raises(ValueError, match="^group_scales: expected uint8"):
            unpack_per_group(qweight, scales.to(dtype), offsets)
    for bad in (offsets[:, :1], offsets.short()):
        with pytest.raises(ValueError, match="^group_offsets: expected int8"):
            unpack_per_group(qweight, scales, bad)
    for bad in (torch.zeros(3, dtype=torch.uint8), torch.full((4,), 16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"^zeros: expected .*0\.\.15"):
            unpack_per_channel(qweight, bad)


@pytest.mark.parametrize("group_size", [128, 64, 32, 2])
def test_per_group_equals_the_reference_bit_for_bit(group_size: int):
    """INT8 codes unpacked at load against the definition from nibbles: a group or nibble misread
    changes integers, and integers must not differ at all."""
    weight = random_weight(40, 256, group_size)
    scales = torch.rand(40) + 0.01
    for num_rows in (1, 3, 17):
        x = quantize_activations(torch.randn(num_rows, 256))
        y = int8_gemm(x, unpack_per_group(*weight), scales)
        assert_same_bits("y", y, w4a8_gemm_reference(x, weight[0], scales, *weight[1:]))


def test_per_channel_equals_the_reference_bit_for_bit():
    """Subtracting the zero point from codes or, through their sums, from the product is the same
    integer; with the sum of the unquantized row it is not."""
    qweight = torch.randint(0, 256, (40, 128), dtype=torch.uint8)
    zeros = torch.arange(40, dtype=torch.uint8) % 16
    scales = torch.rand(40) + 0.01
    for num_rows in (0, 1, 3, 17):
        x = quantize_activations(torch.randn(num_rows, 256) + 2)
        y = int8_gemm(x, unpack_per_channel(qweight, zeros), scales)
        assert_same_bits("y", y, w4a8_gemm_per_channel_reference(x, qweight, scales, zeros))


def test_every_zero_point_unpacks_exactly():
    zeros = torch.arange(16, dtype=torch.uint8)
    weight = unpack_per_channel(ALL_CODES.expand(16, -1), zeros)
    assert weight.tolist() == [[q - z for q in range(16)] for z in range(16)]
