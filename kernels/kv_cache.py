"""The paged KV cache: how keys and values are quantized, laid out, stored and loaded.

Quantized, per token and kv head, after RoPE: ``scale = fp16((max - min) / (2 ** bits - 1))``
(0 -> 1), ``bias = fp16(min)``, ``q = clamp(round((x - bias) / scale), 0, 2 ** bits - 1)`` and
``x' = q * scale + bias`` (QServe, arXiv 2405.04532, section 4.2).

A cache of one layer is ``[num_blocks, block_elements]`` and a block holds everything of its tokens:
codes, bytes ``[2, H, block_size, D * bits / 8]``, keys then values, and after them fp16
``[2, H, 2, block_size]`` of scale and bias. At 4 bits a byte has dimension ``d`` in its low and
``d + D / 2`` in its high nibble, so that unpacking never interleaves.
Unquantized, a block is ``[2, H, block_size, D]`` in the cache's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FP16_MAX = 65504.0


class SlotMapping(NamedTuple):
    """Where a step's tokens go: block ids and offsets in the block, int64 ``[M]``, all >= 0."""

    blocks: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class KvFormat:
    """``bits`` 4 or 8 (quantized), or a floating-point ``dtype`` with ``bits`` None."""

    num_kv_heads: int
    head_dim: int
    bits: int | None = 4
    dtype: torch.dtype = torch.uint8
    block_size: int = 64

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, None):
            raise ValueError(f"bits: expected 4, 8 or None, got {self.bits}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim: expected an even number, got {self.head_dim}")
        if (self.bits is None) != self.dtype.is_floating_point:
            raise ValueError(f"dtype: {self.dtype} does not go with bits {self.bits}")

    @property
    def code_width(self) -> int:
        """Elements of one token's keys (or values) of one head: bytes where quantized."""
        return self.head_dim if self.bits is None else self.head_dim * self.bits // 8

    @property
    def code_elements(self) -> int:
        return 2 * self.num_kv_heads * self.block_size * self.code_width

    @property
    def block_elements(self) -> int:
        scale_bytes = 0 if self.bits is None else 2 * self.num_kv_heads * 2 * self.block_size * 2
        return self.code_elements + scale_bytes

    @property
    def block_bytes(self) -> int:
        return self.block_elements * self.dtype.itemsize

    def allocate(self, num_blocks: int) -> KvCache:
        """An empty cache of one layer.

        Memory comes zeroed and is taken from the system page by page as blocks are first used.
        """
        zeros = np.zeros((num_blocks, self.block_bytes), dtype=np.uint8)
        return self._cache(torch.from_numpy(zeros).view(self.dtype))

    def allocate_on(self, device: torch.device, num_blocks: int) -> KvCache:
        """As ``allocate``, in a device's memory."""
        shape = (num_blocks, self.block_bytes)
        return self._cache(torch.zeros(shape, dtype=torch.uint8, device=device).view(self.dtype))

    def _cache(self, blocks: Tensor) -> KvCache:
        return KvCache(blocks, self.codes(blocks), self.scales(blocks) if self.bits else None)

    def codes(self, blocks: Tensor) -> Tensor:
        """View of blocks ``[B, block_elements]`` as ``[B, 2, H, block_size, code_width]``."""
        shape = (2, self.num_kv_heads, self.block_size, self.code_width)
        return torch.unflatten(blocks[:, : self.code_elements], 1, shape)

    def scales(self, blocks: Tensor) -> Tensor:
        """View of blocks as fp16 ``[B, 2, H, 2, block_size]``: scale, then bias."""
        shape = (2, self.num_kv_heads, 2, self.block_size)
        return torch.unflatten(blocks[:, self.code_elements :].view(torch.float16), 1, shape)


class KvCache(NamedTuple):
    """One layer's ``blocks`` ``[num_blocks, block_elements]`` and the two views of its format."""

    blocks: Tensor
    codes: Tensor
    scales: Tensor | None


def quantize_kv(kv: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes uint8 ``[..., D]`` and scale and bias fp16 ``[..., 2]`` of fp32 ``[..., D]``.

    Scale and bias are finite whatever comes in: a block may serve another request next, and a NaN
    in a masked place would still reach its sums.
    """
    low, high = kv.amin(dim=-1), kv.amax(dim=-1)
    levels = 2**bits - 1
    scale_bias = torch.stack(((high - low).div_(levels), low), dim=-1).half()
    scale_bias.nan_to_num_(nan=1.0, posinf=FP16_MAX, neginf=-FP16_MAX)
    scale_bias[..., 0].masked_fill_(scale_bias[..., 0].logical_not(), 1.0)
    scale, bias = scale_bias.float().unsqueeze(-2).unbind(dim=-1)
    codes = (kv - bias).div_(scale).round_().clamp_(0, levels)
    return codes.to(torch.uint8), scale_bias


def dequantize_kv(codes: Tensor, scale_bias: Tensor) -> Tensor:
    """``codes * scale + bias``, fp32 ``[..., D]``."""
    scale, bias = scale_bias.float().unbind(dim=-1)
    return codes.float() * scale[..., None] + bias[..., None]


def store_kv(cache: KvCache, slots: SlotMapping, kv: Tensor, fmt: KvFormat) -> None:
    """Quantize keys and values fp32 ``[M, 2, H, D]`` and write them to their slots.

    Raises:
        ValueError: shapes do not match.
        IndexError: a slot lies past the end of the cache.
    """
    expected = (slots.blocks.shape[0], 2, fmt.num_kv_heads, fmt.head_dim)
    if kv.shape != expected:
        raise ValueError(f"kv: expected {list(expected)}, got {list(kv.shape)}")
    every = slice(None)
    if fmt.bits is None:
        codes = kv.to(fmt.dtype).nan_to_num()
    else:
        codes, scale_bias = quantize_kv(kv, fmt.bits)
        assert cache.scales is not None
        cache.scales[slots.blocks, :, :, :, slots.offsets] = scale_bias
    if fmt.bits == 4:
        low, high = codes.chunk(2, dim=-1)
        codes = torch.add(low, high, alpha=16)
    cache.codes[slots.blocks, every, every, slots.offsets] = codes


def load_codes(blocks: Tensor, num_sequences: int, fmt: KvFormat) -> Iterator[Tensor]:
    """Codes fp32 ``[R * H, T, D]`` of ``num_sequences`` runs of blocks ``[R * B, block_elements]``.

    Of the keys, then of the values: both at once would not fit into a CPU's L2 cache. ``T`` is
    ``B * block_size``.
    """
    rows = num_sequences * fmt.num_kv_heads
    return (
        _unpack(packed, fmt).view(rows, -1, fmt.head_dim)
        for packed in _by_sequence(fmt.codes(blocks), num_sequences)
    )


def _unpack(packed: Tensor, fmt: KvFormat) -> Tensor:
    codes = torch.empty((*packed.shape[:-1], fmt.head_dim), dtype=torch.float32)
    if fmt.bits == 8:
        return codes.copy_(packed)
    codes[..., : fmt.code_width] = packed & 15
    codes[..., fmt.code_width :] = packed >> 4
    return codes


def load_scales(blocks: Tensor, num_sequences: int, fmt: KvFormat) -> Tensor:
    """Fp32 ``[2, 2, R * H, T]``: of keys and values, scale and bias."""
    scales = _by_sequence(fmt.scales(blocks).transpose(2, 3).flatten(1, 2), num_sequences)
    wide = torch.empty(scales.shape, dtype=torch.float32).copy_(scales)
    return wide.view(2, 2, num_sequences * fmt.num_kv_heads, -1)


def load_kv(blocks: Tensor, num_sequences: int, fmt: KvFormat) -> Tensor:
    """Keys and values fp32 ``[2, R * H, T, D]`` of runs of blocks ``[R * B, block_elements]``."""
    if fmt.bits is not None:
        codes = torch.stack(list(load_codes(blocks, num_sequences, fmt)))
        return dequantize_kv(codes, load_scales(blocks, num_sequences, fmt).movedim(1, -1))
    kv = _by_sequence(fmt.codes(blocks), num_sequences)
    return kv.float().reshape(2, num_sequences * fmt.num_kv_heads, -1, fmt.head_dim)


def _by_sequence(blocks: Tensor, num_sequences: int) -> Tensor:
    """``[R * B, S, H, ...]`` to ``[S, R, H, B, ...]``."""
    return torch.unflatten(blocks, 0, (num_sequences, -1)).movedim((2, 0, 3, 1), (0, 1, 2, 3))
