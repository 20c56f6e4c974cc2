"""Orthonormal matrices whose entries are as equal as their order allows, as Kronecker factors.

Which order gets which:
- a power of two: Sylvester;
- ``2^a * odd`` where some ``2^b * odd``, b <= a, is ``q + 1`` for a prime q = 3 mod 4 (Paley I)
  or ``2 (q + 1)`` for a prime q = 1 mod 4 (Paley II): Sylvester times the smallest such matrix.
  The hidden sizes 576, 896, 960, 1536, 2304, 2560, 3584, 5120, 6656 and 14336 are of this kind;
- any other: Sylvester times the Hartley matrix of the odd part, whose entries reach sqrt(2) times
  those of a Hadamard matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

MAX_SYLVESTER_ORDER = 64  # two factors of 64 cost a row of 4096 a 32nd of what one matrix costs


def hadamard_factors(size: int) -> tuple[Tensor, ...]:
    """Float64 orthonormal square matrices whose orders multiply to ``size``; none for size 1."""
    power = size & -size
    odd = size // power
    if odd == 1:
        return tuple(_sylvester_factors(power))
    core = _smallest_paley(odd, power)
    if core is None:
        core = _hartley(odd)
    return (*_sylvester_factors(size // len(core)), core)


def _sylvester_factors(power: int) -> Iterator[Tensor]:
    while power > 1:
        order = min(power, MAX_SYLVESTER_ORDER)
        yield _sylvester(order)
        power //= order


def _sylvester(order: int) -> Tensor:
    signs = torch.ones(1, 1, dtype=torch.float64)
    while len(signs) < order:
        signs = torch.kron(signs, _signs([[1, 1], [1, -1]]))
    return signs / math.sqrt(order)


def _smallest_paley(odd: int, power: int) -> Tensor | None:
    """The first of odd, 2 odd, 4 odd, ... up to ``power * odd`` that Paley constructs."""
    for order in (odd << doublings for doublings in range(power.bit_length())):
        if order % 4 == 0 and _is_prime(order - 1):
            return _paley_1(order - 1) / math.sqrt(order)
        if order % 4 == 0 and _is_prime(order // 2 - 1):
            return _paley_2(order // 2 - 1) / math.sqrt(order)
    return None


def _paley_1(q: int) -> Tensor:
    """Signs [q + 1, q + 1], for a prime q = 3 mod 4."""
    return torch.eye(q + 1, dtype=torch.float64) + _bordered_jacobsthal(q, -1)


def _paley_2(q: int) -> Tensor:
    """Signs [2 (q + 1), 2 (q + 1)], for a prime q = 1 mod 4."""
    conference = torch.kron(_bordered_jacobsthal(q, 1), _signs([[1, 1], [1, -1]]))
    diagonal = torch.kron(torch.eye(q + 1, dtype=torch.float64), _signs([[1, -1], [-1, -1]]))
    return conference + diagonal


def _bordered_jacobsthal(q: int, column: int) -> Tensor:
    """[q + 1, q + 1]: quadratic characters of ``i - j`` mod q, a row of ones above them and a
    column of ``column`` to their left, 0 in the corner.
    """
    places = torch.arange(q)
    character = torch.full((q,), -1.0, dtype=torch.float64)
    character[places**2 % q] = 1
    character[0] = 0
    matrix = torch.ones(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 0] = 0
    matrix[1:, 0] = column
    matrix[1:, 1:] = character[(places[:, None] - places) % q]
    return matrix


def _hartley(order: int) -> Tensor:
    """``cos + sin`` of ``2 pi i j / order``; symmetric."""
    places = torch.arange(order)
    angles = (places[:, None] * places % order).double() * (2 * math.pi / order)
    return (angles.cos() + angles.sin()) / math.sqrt(order)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _signs(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
