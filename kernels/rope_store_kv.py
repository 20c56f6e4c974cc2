"""RoPE on queries and keys, quantization of keys and values, and the write to their slots.

One pass over the fused projection: the rotated keys go to the cache and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.kernels.kv_cache import KvCache, KvFormat, SlotMapping, store_kv
from qoq.kernels.rope import apply_rope


def rope_store_kv(
    qkv: Tensor, rope: Tensor, cache: KvCache, slots: SlotMapping, fmt: KvFormat
) -> Tensor:
    """Queries, keys and values ``[M, Hq + 2 H, D]``; rotated queries ``[M, Hq, D]`` come back.

    ``rope`` fp32 ``[M, 3, D / 2]`` are the rope table's rows of the tokens' positions.

    Raises:
        ValueError: shapes do not match.
        IndexError: a slot lies outside the cache.
    """
    num_heads = qkv.shape[1] - 2 * fmt.num_kv_heads
    if num_heads <= 0 or qkv.shape[2] != fmt.head_dim:
        raise ValueError(
            f"qkv: expected [M, Hq + {2 * fmt.num_kv_heads}, {fmt.head_dim}], got {list(qkv.shape)}"
        )
    rotated = apply_rope(qkv[:, : num_heads + fmt.num_kv_heads], rope)
    kv = torch.cat((rotated[:, num_heads:], qkv[:, num_heads + fmt.num_kv_heads :]), dim=1)
    store_kv(cache, slots, kv.float().view(-1, 2, fmt.num_kv_heads, fmt.head_dim), fmt)
    return rotated[:, :num_heads]
