"""Rotation by position, half-split, within rounding of complex multiplication."""

from __future__ import annotations

import math

import pytest
import torch

from qoq.kernels.rope import apply_rope, apply_rope_reference, rope_table

from .closeness import ROWS, U32, UNIT_ROUNDOFF, assert_same_bits, assert_within

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def table(head_dim: int, num_positions: int = 100, scale: float = 1.0) -> torch.Tensor:
    return rope_table(
        10000.0 ** -(torch.arange(head_dim // 2) / (head_dim // 2)), num_positions, scale
    )


def test_table_holds_cosines_minus_sines_and_sines():
    """In numbers: angle = position * frequency, all times the attention scale."""
    rows = rope_table(torch.tensor([math.pi / 2, math.pi]), 3, attention_scale=2.0)
    assert rows.shape == (3, 3, 2) and rows.dtype == torch.float32
    cos = [[2, 2], [0, -2], [-2, 2]]
    sin = [[0, 0], [2, 0], [0, 0]]
    expected = torch.tensor([cos, [[-s for s in row] for row in sin], sin]).movedim(0, 1)
    # fp32 pi is off by one roundoff, and so is the angle, at most 2 pi; times the scale.
    assert_within("table", rows, expected.double(), 2 * 4 * math.pi * U32)


def test_rotates_a_pair_of_halves_by_hand():
    """Dimension d turns with d + D / 2, counterclockwise: fails for interleaved pairs."""
    x = torch.tensor([[[1.0, 2.0, 30.0, 40.0]]])
    quarter = torch.tensor([[[0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]])  # a quarter turn, and none
    assert apply_rope(x, quarter).tolist() == [[[-30.0, 2.0, 1.0, 40.0]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 2])
def test_is_within_rounding_of_complex_multiplication(dtype: torch.dtype, head_dim: int):
    """Two products and a sum: two roundoffs of the sum of their magnitudes, then the dtype."""
    x = torch.randn(9, 3, head_dim).to(dtype)
    rows = table(head_dim)[torch.tensor([0, 1, 2, 7, 99, 50, 50, 3, 98])]
    magnitude = x.double().abs().unflatten(2, (2, -1)).sum(dim=2).repeat(1, 1, 2)
    bound = (2 * U32 + UNIT_ROUNDOFF[dtype]) * (1 + U32) * magnitude
    y = apply_rope(x, rows)
    assert y.dtype == dtype
    exact = apply_rope_reference(x.double(), rows)
    assert_within("y", y, exact, bound)


def test_products_depend_on_the_distance_alone():
    """What RoPE is for; a wrong sign in one of the halves breaks it."""
    q, k = torch.randn(2, 1, 1, 64)
    rows = table(64)
    products = [
        (apply_rope(q, rows[i : i + 1]) * apply_rope(k, rows[i + 5 : i + 6])).sum()
        for i in (0, 1, 40, 90)
    ]
    # Angles up to 95 are rounded in fp32, and so are 64 products and their sum.
    bound = (2 * 95 + 64 + 8) * U32 * float(q.abs().sum() * k.abs().max())
    assert_within("q . k", torch.stack(products), products[0].double().expand(4), bound)


def test_a_token_has_the_same_bits_in_any_batch(threads: int):
    """Tokens carry their own table rows, so company must change nothing."""
    x, rows = torch.randn(64, 5, 96), table(96)[:64]
    alone = torch.cat([apply_rope(x[i : i + 1], rows[i : i + 1]) for i in range(64)])
    for size in ROWS:
        for part in (slice(0, size), slice(64 - size, 64)):
            assert_same_bits(f"y, {size} tokens", apply_rope(x[part], rows[part]), alone[part])


def test_leaves_its_input_alone():
    """fp32 input is not copied first."""
    x = torch.randn(2, 3, 8)
    before = x.clone()
    apply_rope(x, table(8)[:2])
    assert torch.equal(x, before)
