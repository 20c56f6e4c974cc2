"""Integer arithmetic of launches. Triton's own takes 5 us a call, at a thousand calls a step."""

from __future__ import annotations


def cdiv(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def round_up(count: int, multiple: int) -> int:
    return cdiv(count, multiple) * multiple


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``, for ``n`` of 1 or more."""
    return 1 << (n - 1).bit_length()
