"""How a change of weights changes a linear layer's outputs, from the inputs of calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean diagonal


@dataclass(frozen=True, slots=True)
class Hessian:
    """``gram`` fp32 [K, K] is ``X.T @ X`` of inputs ``X`` [tokens, K]."""

    gram: Tensor

    def damped(self) -> Tensor:
        """Positive definite, float64 [K, K]: inputs that calibration never saw count a little."""
        gram = self.gram.double()
        mean = gram.diagonal().mean().item()
        gram.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
        return gram

    def relative_error(self, weight: Tensor, stored: Tensor) -> float:
        """Of the outputs, both weights fp32 [N, K]: norm of the change over the norm."""
        norm = self._output_norm(weight)
        return self._output_norm(stored - weight) / norm if norm > 0 else 0.0

    def _output_norm(self, weight: Tensor) -> float:
        return math.sqrt(max(0.0, torch.sum((weight @ self.gram) * weight).item()))
