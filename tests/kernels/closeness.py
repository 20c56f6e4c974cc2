"""Comparisons that name the tensor, and the unit roundoffs that bounds are derived from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Half the spacing of numbers just above 1: the largest relative error of one rounding.
UNIT_ROUNDOFF = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}
U32 = UNIT_ROUNDOFF[torch.float32]
# Batches of odd and even sizes, around the widths of vectors, tiles and BLAS kernels.
ROWS = (1, 2, 3, 5, 17, 43, 64)


def assert_within(name: str, actual: Tensor, expected: Tensor, bound: Tensor | float) -> None:
    """``|actual - expected| <= bound`` for every element; NaN fails."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    error = (actual.double() - expected.double()).abs()
    excess = error - bound
    bad = ~(excess <= 0)
    assert not bad.any(), (
        f"{name}: {int(bad.sum())} of {bad.numel()} elements out of bounds, "
        f"largest error {error.max():.3e}, largest excess {excess.max():.3e}"
    )


def assert_same_bits(name: str, actual: Tensor, expected: Tensor) -> None:
    """Equal shape, dtype and bytes: -0.0 is not 0.0, and a NaN equals itself."""
    assert actual.dtype == expected.dtype, f"{name}: {actual.dtype} is not {expected.dtype}"
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    a, b = (t.contiguous().view(-1).view(torch.uint8) for t in (actual, expected))
    assert torch.equal(a, b), f"{name}: bits differ in {int((actual != expected).sum())} elements"


def assert_rows_ignore_their_company(
    name: str, function: Callable[[Tensor], Tensor], x: Tensor, sizes: tuple[int, ...] = ROWS
) -> None:
    """Each row of ``function(x)`` has the bits it has alone, in any batch and any place of it."""
    alone = torch.cat([function(row[None]) for row in x])
    for size in sizes:
        for start in {0, x.shape[0] - size}:
            part = slice(start, start + size)
            assert_same_bits(f"{name}, {size} rows", function(x[part]), alone[part])
