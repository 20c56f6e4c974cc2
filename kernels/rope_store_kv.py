"""RoPE on queries and keys, quantization of keys and values, and the write to their slots.

One pass over the fused projection: the rotated keys go to the cache and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.kv_cache import KvFormat, SlotMapping, store_kv
from qoq.kernels.rope import apply_rope


def rope_store_kv(
    qkv: Tensor, cos_sin: Tensor, cache: Tensor, slots: SlotMapping, fmt: KvFormat
) -> Tensor:
    """Queries, keys and values ``[M, Hq + 2 H, D]``; rotated queries ``[M, Hq, D]`` come back.

    ``cos_sin`` fp32 ``[M, 2, D / 2]`` are the rope table's rows of the tokens' positions.

    Raises:
        ValueError: shapes do not match.
        IndexError: a slot lies outside the cache.
    """
    num_heads = qkv.shape[1] - 2 * fmt.num_kv_heads
    if num_heads <= 0 or qkv.shape[2] != fmt.head_dim:
        raise ValueError(
            f"qkv: expected [M, Hq + {2 * fmt.num_kv_heads}, {fmt.head_dim}], got {list(qkv.shape)}"
        )
    rotated = apply_rope(qkv[:, : num_heads + fmt.num_kv_heads], cos_sin)
    values = qkv[:, num_heads + fmt.num_kv_heads :]
    kv = torch.stack((rotated[:, num_heads:], values), dim=1)
    store_kv(cache, slots, kv.float(), fmt)
    return rotated[:, :num_heads]
