from __future__ import annotations

import pytest
import torch

from qoq.quantize.hessian import DAMPING, Hessian

from .calibrated_weights import correlated_inputs, gaussian_weight


def test_the_relative_error_is_that_of_the_outputs():
    x, weight = correlated_inputs(32), gaussian_weight(5, 32)
    stored = weight + 0.1 * gaussian_weight(5, 32, seed=2)
    expected = (x @ (stored - weight).T).norm() / (x @ weight.T).norm()
    error = Hessian(x.T @ x).relative_error(weight, stored)
    assert error == pytest.approx(expected.item(), rel=1e-4)


def test_a_weight_that_gives_nothing_has_no_error():
    hessian = Hessian(torch.eye(8))
    assert hessian.relative_error(torch.zeros(2, 8), torch.zeros(2, 8)) == 0


def test_damping_adds_a_hundredth_of_the_mean_and_leaves_the_sums_alone():
    gram = torch.diag(torch.tensor([1.0, 3.0]))
    hessian = Hessian(gram)
    expected = torch.tensor([1 + 2 * DAMPING, 3 + 2 * DAMPING], dtype=torch.float64)
    assert torch.allclose(hessian.damped(), expected.diag(), rtol=1e-12)
    assert torch.equal(hessian.gram, torch.diag(torch.tensor([1.0, 3.0])))


@pytest.mark.parametrize("size", [8, 40])
def test_inputs_that_calibration_never_saw_leave_it_positive_definite(size: int):
    gram = torch.zeros(size, size)
    torch.linalg.cholesky(Hessian(gram).damped())
    gram[3, 3] = 1e12
    torch.linalg.cholesky(Hessian(gram).damped())
