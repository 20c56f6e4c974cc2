from __future__ import annotations

import pytest
import torch

from qoq.quantize.weights.cost import Cost, OutputError, SquaredError, WeightedError

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(50, 6, generator=GENERATOR)
IMPORTANCE = torch.rand(6, generator=GENERATOR) + 0.1
ERRORS = torch.randn(3, 6, generator=GENERATOR)
COSTS: dict[str, Cost] = {
    "squared": SquaredError(),
    "weighted": WeightedError(IMPORTANCE),
    "output": OutputError(INPUTS.T @ INPUTS),
}


def test_costs_are_what_they_are_named_after():
    expected = {
        "squared": (ERRORS**2).sum(1),
        "weighted": (ERRORS**2 * IMPORTANCE).sum(1),
        "output": (INPUTS @ ERRORS.T).square().sum(0),
    }
    for name, cost in COSTS.items():
        assert torch.allclose(cost(ERRORS.clone()), expected[name][:, None], rtol=1e-5), name


@pytest.mark.parametrize("name", COSTS)
def test_no_other_shift_costs_less_than_the_center(name: str):
    """The cost is a parabola of the shift: its minimum lies below both sides."""
    cost = COSTS[name]
    center = cost.center(ERRORS)
    least = cost(ERRORS - center)
    for step in (-0.1, 0.1):
        assert (cost(ERRORS - center - step) > least).all()
