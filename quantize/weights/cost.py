"""What it costs to round a group of weights wrongly: the scales of the group are chosen by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Cost(Protocol):
    """Of errors fp32 [..., group]; each row has its own."""

    def __call__(self, errors: Tensor) -> Tensor:
        """[..., 1], from 0 on; may overwrite ``errors``."""
        ...

    def center(self, errors: Tensor) -> Tensor:
        """[..., 1]: what to subtract from all errors of a row so that they cost least."""
        ...


@dataclass(frozen=True, slots=True)
class SquaredError:
    """All weights count alike."""

    def __call__(self, errors: Tensor) -> Tensor:
        return errors.square_().sum(dim=-1, keepdim=True)

    def center(self, errors: Tensor) -> Tensor:
        return errors.mean(dim=-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class WeightedError:
    """Squared errors count by their column: ``importance`` fp32 [group], above zero."""

    importance: Tensor

    def __call__(self, errors: Tensor) -> Tensor:
        return (errors.square_() @ self.importance)[..., None]

    def center(self, errors: Tensor) -> Tensor:
        return (errors @ (self.importance / self.importance.sum()))[..., None]


@dataclass(frozen=True, slots=True)
class OutputError:
    """What the errors change in the layer's output: ``e H e.T``, with a positive definite
    ``hessian`` fp32 [group, group] of the group's inputs.
    """

    hessian: Tensor

    def __call__(self, errors: Tensor) -> Tensor:
        return ((errors @ self.hessian) * errors).sum(dim=-1, keepdim=True)

    def center(self, errors: Tensor) -> Tensor:
        return (errors @ (self.hessian.sum(dim=0) / self.hessian.sum()))[..., None]
