"""A linear layer with 4-bit codes, and its tensors in each quantizer's documented layout.

Written element by element in numpy, and from nothing of the readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the channel in each four bits of a word, lowest first


@dataclass(frozen=True)
class QuantizedLinear:
    """``(codes - zeros) * scales``: codes int64 [N, K], zeros int64 and scales float16 [N, G],
    and the group of each input, int64 [K]."""

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray

    def dequantize(self) -> Tensor:
        """float32 [N, K], exactly: products of 5 and 11 bits."""
        zeros, scales = self.zeros[:, self.groups], self.scales[:, self.groups]
        return torch.from_numpy((self.codes - zeros).astype(np.float32) * scales)


def random_linear(
    rng: np.random.Generator,
    shape: tuple[int, int],
    group_size: int,
    *,
    symmetric: bool = False,
    act_order: bool = False,
) -> QuantizedLinear:
    n, k = shape
    num_groups = 1 if group_size == -1 else k // group_size
    groups = np.repeat(np.arange(num_groups), k // num_groups)
    return QuantizedLinear(
        rng.integers(0, 16, (n, k)),
        np.full((n, num_groups), 8) if symmetric else rng.integers(4, 12, (n, num_groups)),
        rng.uniform(0.02, 0.08, (n, num_groups)).astype(np.float16),
        rng.permutation(groups) if act_order else groups,
    )


def words(codes: np.ndarray) -> np.ndarray:
    """Eight codes a word along the last dimension, the first in the lowest bits; zero padding."""
    *rows, k = codes.shape
    packed = np.zeros((*rows, -(-k // 8)), dtype=np.uint32)
    for i in range(k):
        packed[..., i // 8] |= codes[..., i].astype(np.uint32) << np.uint32(4 * (i % 8))
    return packed.view(np.int32)


def awq_tensors(linear: QuantizedLinear) -> dict[str, np.ndarray]:
    n = len(linear.codes)
    order = [8 * word + channel for word in range(n // 8) for channel in AWQ_ORDER]
    return {
        "qweight": words(linear.codes.T[:, order]),
        "qzeros": words(linear.zeros.T[:, order]),
        "scales": linear.scales.T,
    }


def gptq_tensors(linear: QuantizedLinear, version: int = 1) -> dict[str, np.ndarray]:
    return {
        "qweight": words(linear.codes).T,
        "qzeros": words(linear.zeros.T - (1 if version == 1 else 0)),
        "scales": linear.scales.T,
        "g_idx": linear.groups.astype(np.int32),
    }


def compressed_tensors(linear: QuantizedLinear, *, symmetric: bool) -> dict[str, np.ndarray]:
    """Codes -8..7 are stored plus 8, which is what ``linear`` has."""
    tensors = {
        "weight_packed": words(linear.codes),
        "weight_scale": linear.scales,
        "weight_shape": np.array(linear.codes.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(linear.zeros.T).T
    if (np.diff(linear.groups) < 0).any():
        tensors["weight_g_idx"] = linear.groups.astype(np.int32)
    return tensors


@dataclass(frozen=True)
class QServeLinear:
    """``scales * (codes * s + b)`` with ``b = -zeros * s``; per channel ``s`` is one and G is 1.
    codes int64 [N, K], zeros and s int64 [N, G], scales float16 [N]."""

    codes: np.ndarray
    zeros: np.ndarray
    s: np.ndarray
    scales: np.ndarray

    @property
    def integers(self) -> np.ndarray:
        repeats = self.codes.shape[1] // self.s.shape[1]
        zeros, s = (x.repeat(repeats, axis=1) for x in (self.zeros, self.s))
        return (self.codes - zeros) * s

    def dequantize(self) -> Tensor:
        """float32 [N, K], exactly: products of 8 and 11 bits."""
        return torch.from_numpy(self.integers.astype(np.float32) * self.scales[:, None])


def random_qserve(
    rng: np.random.Generator, shape: tuple[int, int], group_size: int
) -> QServeLinear:
    """Per group, W8 is legal and half of the groups have codes from 8 up with a zero point of 15:
    where ``s`` is past 8, ``-15 s`` wraps around in eight bits."""
    n, k = shape
    scales = rng.uniform(0.002, 0.005, n).astype(np.float16)
    if group_size == -1:
        codes, zeros = rng.integers(0, 16, (n, k)), rng.integers(0, 16, (n, 1))
        return QServeLinear(codes, zeros, np.ones_like(zeros), scales * np.float16(16))
    num_groups = k // group_size
    is_high = rng.random((n, num_groups)) < 0.5
    zeros = np.where(is_high, 15, rng.integers(7, 9, (n, num_groups)))
    s = np.where(is_high, rng.integers(1, 18, is_high.shape), rng.integers(1, 15, is_high.shape))
    codes = rng.integers(0, 16, (n, k))
    codes = np.where(is_high.repeat(group_size, axis=1), 8 + codes // 2, codes)
    return QServeLinear(codes, zeros, s, scales)


def qserve_tensors(linear: QServeLinear, *, per_channel: bool) -> dict[str, np.ndarray]:
    tensors = {"qweight": qserve_tiles(linear.codes), "s1_scales": linear.scales}
    if per_channel:
        scaled_zeros = linear.zeros[:, 0].astype(np.float16) * linear.scales
        return tensors | {"s1_szeros": scaled_zeros.astype(np.float16)}
    negated = (-linear.zeros * linear.s).astype(np.int8)  # wraps around, as the converter's does
    return tensors | {
        "s2_scales": qserve_lanes(linear.s.astype(np.int8)),
        "s2_zeros": qserve_lanes(negated),
    }


def qserve_tiles(codes: np.ndarray) -> np.ndarray:
    """One tile of 32 x 32 after the other; in a tile 8 rows x 4 lanes of 16 bytes."""
    n, k = codes.shape
    packed = []
    for tile_row in range(0, n, 32):
        for tile_column in range(0, k, 32):
            tile = codes[tile_row : tile_row + 32, tile_column : tile_column + 32]
            for row in range(8):
                for lane in range(4):
                    for column in (0, 16):
                        for block in (0, 8):
                            for byte in range(4):
                                at = row + block, column + 4 * lane + byte
                                packed.append(tile[at] | tile[at[0] + 16, at[1]] << 4)
    return np.array(packed, dtype=np.uint8).view(np.int8).reshape(n, k // 2)


def qserve_lanes(values: np.ndarray) -> np.ndarray:
    """[N, G] to [G, N], in each 32 rows 0, 8, 16, 24, 1, 9, 17, 25, ..."""
    order = [
        tile + row + block
        for tile in range(0, len(values), 32)
        for row in range(8)
        for block in (0, 8, 16, 24)
    ]
    return values[order].T
