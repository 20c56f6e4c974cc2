"""What another package's GEMM must be to be timed beside ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qoq.kernels.bench.peer import Peer, checked_call, load_peer


def dense(weights: list[Tensor], x: Tensor) -> Callable[[int], Tensor]:
    return lambda index: x @ weights[index].t()


def four_bits(weights: list[Tensor], x: Tensor) -> Callable[[int], Tensor]:
    scales = [weight.abs().amax(1, keepdim=True) / 7 for weight in weights]
    rounded = [(w / s).round() * s for w, s in zip(weights, scales, strict=True)]
    return dense(rounded, x)


def the_first_alone(weights: list[Tensor], x: Tensor) -> Callable[[int], Tensor]:
    return lambda index: x @ weights[0].t()


def without_scales(weights: list[Tensor], x: Tensor) -> Callable[[int], Tensor]:
    return lambda index: 2 * (x @ weights[index].t())


@pytest.fixture
def operands() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(64, 128, generator=generator).bfloat16() for _ in range(3)]
    return weights, torch.randn(5, 128, generator=generator).bfloat16()


@pytest.mark.parametrize("peer", [dense, four_bits])
def test_a_product_within_the_error_of_4_bits_is_timed(
    peer: Peer, operands: tuple[list[Tensor], Tensor]
):
    assert checked_call(peer, *operands)(2).shape == (5, 64)


@pytest.mark.parametrize(("peer", "index"), [(without_scales, 0), (the_first_alone, 1)])
def test_any_other_is_not(peer: Peer, index: int, operands: tuple[list[Tensor], Tensor]):
    with pytest.raises(AssertionError, match=f"weight {index} of 3: relative error"):
        checked_call(peer, *operands)


def test_a_peer_is_imported_by_name():
    assert load_peer("torch:mm") is torch.mm


@pytest.mark.parametrize("name", ["no_such_package:gemm", "torch:no_such_gemm", "torch", ":mm", ""])
def test_what_cannot_be_imported_is_refused_by_name(name: str):
    with pytest.raises(ValueError, match=f"^{name}: expected MODULE:FUNCTION"):
        load_peer(name)
