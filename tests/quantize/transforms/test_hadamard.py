import math

import pytest
import torch
from torch import Tensor

from qoq.quantize.transforms.hadamard import MAX_SYLVESTER_ORDER, hadamard_factors

# Head, hidden and MLP sizes of Llama, Mistral, Qwen, Yi and SmolLM2, and one that needs q = 199.
WITH_SIGNS = [8, 16, 64, 80, 96, 112, 128, 256, 576, 896, 960, 1536, 2048, 2304, 2560, 3200, 3584]
WITH_SIGNS += [4096, 5120, 6656, 7168, 8192, 14336]
WITH_HARTLEY = [3, 6, 9, 50, 92 * 7]


def error_of_orthogonality(factor: Tensor) -> float:
    identity = torch.eye(len(factor), dtype=torch.float64)
    return (factor @ factor.T - identity).abs().max().item()


@pytest.mark.parametrize("size", WITH_SIGNS + WITH_HARTLEY)
def test_factors_are_orthonormal(size: int):
    """So is their Kronecker product: errors of up to three factors add."""
    factors = hadamard_factors(size)
    assert math.prod(len(factor) for factor in factors) == size
    assert sum(error_of_orthogonality(factor) for factor in factors) < 1e-12


@pytest.mark.parametrize("size", WITH_SIGNS)
def test_sizes_of_models_get_equal_entries(size: int):
    for factor in hadamard_factors(size):
        flat = torch.full_like(factor, 1 / math.sqrt(len(factor)))
        assert torch.equal(factor.abs(), flat)


@pytest.mark.parametrize("size", WITH_HARTLEY)
def test_entries_of_the_other_sizes_reach_sqrt_2_times_the_mean(size: int):
    *_, core = hadamard_factors(size)
    assert core.abs().max() <= math.sqrt(2 / len(core)) * (1 + 1e-12)


@pytest.mark.parametrize("size", [64, 4096, 8192])
def test_no_factor_of_a_power_of_two_is_large(size: int):
    """A dense product with one matrix of order 8192 would take hours for a large model."""
    assert max(len(factor) for factor in hadamard_factors(size)) <= MAX_SYLVESTER_ORDER


def test_size_one_needs_no_factor():
    assert hadamard_factors(1) == ()
