"""Rotation of the residual stream: ``x -> x R`` everywhere, so that no channel stands out.

Every linear layer that reads the stream takes ``R`` into its inputs, every one that writes it
into its outputs (QoQ, arXiv 2405.04532, section 4.3.1). RMSNorm commutes with ``R`` only while
its gain is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Self

import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.hadamard import hadamard_factors
from qoq.quantize.transforms.norm_folding import NORM_READERS

WRITERS = ("self_attn.o_proj", "mlp.down_proj")
CHUNK_ELEMENTS = 1 << 18  # float64 temporaries of 2 MiB stay in the cache


def hadamard(size: int) -> Tensor:
    """Float64 orthonormal [size, size]; ``transforms.hadamard`` says which sizes get which."""
    return reduce(torch.kron, hadamard_factors(size), torch.ones(1, 1, dtype=torch.float64))


@dataclass(frozen=True, slots=True)
class Rotation:
    """``R = hadamard(size)``, kept as its Kronecker factors: float64, orders multiply to size."""

    size: int
    factors: tuple[Tensor, ...]

    @classmethod
    def for_size(cls, size: int) -> Self:
        return cls(size, hadamard_factors(size))

    def rotate_inputs(self, weight: Tensor) -> Tensor:
        """``W @ R`` in fp32, computed in float64, for [..., size]: weights, embedding, a bias."""
        assert weight.shape[-1] == self.size
        rows = weight.reshape(-1, self.size)
        rotated = torch.empty(rows.shape, dtype=torch.float32)
        num_rows = max(1, CHUNK_ELEMENTS // self.size)
        for source, target in zip(rows.split(num_rows), rotated.split(num_rows), strict=True):
            target.copy_(self._times_factors(source.double()))
        return rotated.view(weight.shape)

    def rotate_outputs(self, weight: Tensor) -> Tensor:
        """``R.T @ W`` in fp32, computed in float64, for [..., size, K]."""
        return self.rotate_inputs(weight.mT).mT.contiguous()

    def _times_factors(self, rows: Tensor) -> Tensor:
        """[M, size] times ``R``. Each product takes the axis of its factor from the front to the
        back, so after the last one all axes are where they were.
        """
        for factor in self.factors:
            rows = (rows.unflatten(-1, (len(factor), -1)).mT @ factor).flatten(-2)
        return rows


def rotate_layer(layer: LayerWeights, rotation: Rotation) -> None:
    """Raises ValueError while a norm of the layer has a gain that is not one."""
    _check_folded(layer)
    tensors = layer.tensors
    for linear in chain.from_iterable(NORM_READERS.values()):
        tensors[f"{linear}.weight"] = rotation.rotate_inputs(tensors[f"{linear}.weight"])
    for linear in WRITERS:
        tensors[f"{linear}.weight"] = rotation.rotate_outputs(tensors[f"{linear}.weight"])
        if (bias := tensors.get(f"{linear}.bias")) is not None:
            tensors[f"{linear}.bias"] = rotation.rotate_inputs(bias)


def _check_folded(layer: LayerWeights) -> None:
    for norm in NORM_READERS:
        if not (layer.tensors[f"{norm}.weight"] == 1).all():
            raise ValueError(
                f"{layer.prefix}{norm}.weight is not all ones; fold the norms before rotating"
            )
