"""Two codes a byte, the even index in the low nibble."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qoq.kernels.packing import pack_codes, unpack_codes


def test_low_nibble_is_the_even_index():
    """A checkpoint's layout: swapped nibbles would still pass a round trip."""
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    assert pack_codes(codes).tolist() == [[0x21, 0x0F]]
    assert unpack_codes(torch.tensor([[0x21, 0xF0]], dtype=torch.uint8)).tolist() == [[1, 2, 0, 15]]


def test_every_byte_unpacks_to_its_nibbles_and_back():
    """All 256 bytes, so also those whose sign bit a signed shift would smear."""
    packed = torch.arange(256, dtype=torch.uint8)
    codes = unpack_codes(packed)
    assert codes.tolist() == [nibble for byte in range(256) for nibble in (byte & 15, byte >> 4)]
    assert torch.equal(pack_codes(codes), packed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=0, max_size=2), st.integers(0, 20), st.randoms())
def test_round_trip_of_any_shape(outer, pairs, random):
    """Fails for a layout that holds only for matrices, or for empty ones."""
    codes = torch.randint(
        0, 16, (*outer, 2 * pairs), dtype=torch.uint8, generator=_generator(random)
    )
    packed = pack_codes(codes)
    assert packed.shape == (*outer, pairs)
    assert torch.equal(unpack_codes(packed), codes)


def test_round_trip_of_views():
    """A transposed or sliced weight, as tensor parallelism makes them, is not contiguous."""
    codes = torch.randint(0, 16, (8, 12), dtype=torch.uint8)
    for view in (codes.t(), codes[:, 2:8], codes[::2]):
        assert torch.equal(unpack_codes(pack_codes(view)), view)
    packed = torch.randint(0, 256, (8, 12), dtype=torch.uint8)
    for view in (packed.t(), packed[:, 3:7], packed[:, ::2]):
        assert torch.equal(unpack_codes(view), unpack_codes(view.contiguous()))


def _generator(random) -> torch.Generator:
    return torch.Generator().manual_seed(random.getrandbits(32))


def test_refuses_other_dtypes_and_odd_widths():
    with pytest.raises(ValueError, match="^codes: expected uint8"):
        pack_codes(torch.zeros(2, 4, dtype=torch.int8))
    with pytest.raises(ValueError, match="^codes: the last dimension must be even, got 3"):
        pack_codes(torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="^packed: expected uint8"):
        unpack_codes(torch.zeros(2, 3, dtype=torch.int32))
