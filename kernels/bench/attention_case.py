"""Random requests over a random quantized cache, on any device, and their attention in float64."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from qoq.kernels.kv_cache import KvCache, KvFormat
from qoq.kernels.paged_attention import paged_attention_reference

# Half the spacing of numbers just above 1.
U16, U32 = 2.0**-11, 2.0**-24


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """One query token a request: ``q`` ``[R, Hq, D]``, ``tables`` int32 ``[R, max_blocks]``."""

    q: Tensor
    cache: KvCache
    tables: Tensor
    context_lens: list[int]
    fmt: KvFormat

    @property
    def scale(self) -> float:
        return float(self.fmt.head_dim**-0.5)

    @property
    def num_bytes(self) -> int:
        """Bytes of codes and scales that a step must read."""
        per_token = self.fmt.block_bytes // self.fmt.block_size
        return sum(self.context_lens) * per_token

    def reference(self, requests: list[int], window: int | None = None) -> Tensor:
        """Float64 ``[len(requests), Hq, D]`` over the dequantized cache, on the CPU."""
        outputs = []
        for request in requests:
            length = self.context_lens[request]
            blocks = self.tables[request, : ceil(length / self.fmt.block_size)].long()
            own = self.cache.blocks[blocks].cpu()
            cache = KvCache(own, self.fmt.codes(own), self.fmt.scales(own))
            q = self.q[request : request + 1].double().cpu()
            table = list(range(len(blocks)))
            out = paged_attention_reference(
                q, cache, [table], [1], [length], self.fmt, self.scale, window
            )
            outputs.append(out)
        return torch.cat(outputs)

    def bound(self) -> float:
        """Largest error of the kernels' arithmetic, from the largest magnitudes that meet.

        A score sums D products in fp32, at four roundoffs each on a matrix unit that truncates; a
        query divided by 16 may leave the normal range of fp16 and lose ``2 ** -21``. An error ``e``
        of all scores moves a mean of values by ``2 e`` times their magnitude. A weight times its
        scale is rounded to fp16, and sums of weights to fp32, with a partition's terms and one
        fold for each partition. The result is rounded to the dtype of the queries.
        """
        scale, bias = self.fmt.scales(self.cache.blocks).float().abs().amax(dim=(0, 2, 4)).unbind(1)
        codes = (2**self.fmt.bits - 1) * scale if self.fmt.bits else scale
        keys, values = float(codes[0] + bias[0]), float(codes[1] + bias[1])
        size = self.fmt.head_dim
        queries = float(self.q.float().abs().sum(dim=-1).max())
        score = ((size + 8) * 4 * U32 * queries * keys + 2**-21 * size * keys) * self.scale
        sums = (256 + 4 * ceil(max(self.context_lens) / 256) + 16) * 4 * U32
        return (2 * score + sums + U16) * values + U16 * values


def make_case(
    context_lens: list[int],
    heads: tuple[int, int],
    head_dim: int,
    *,
    bits: int = 4,
    device: str = "cuda",
    dtype: torch.dtype = torch.float16,
    spare_tokens: int = 0,
) -> AttentionCase:
    """``heads`` are those of queries and of keys; blocks are scattered over the cache."""
    fmt = KvFormat(heads[1], head_dim, bits)
    counts = [ceil(length / fmt.block_size) for length in context_lens]
    num_blocks = max(sum(counts), 1)
    blocks = torch.randint(
        0, 256, (num_blocks, fmt.block_elements), device=device, dtype=torch.uint8
    )
    scales = fmt.scales(blocks)
    levels = 2**bits - 1
    scales[:, :, :, 0] = torch.rand(scales[:, :, :, 0].shape, device=device) * 3 / levels + 1e-3
    scales[:, :, :, 1] = -scales[:, :, :, 0] * levels * torch.rand((), device=device)
    cache = KvCache(blocks, fmt.codes(blocks), scales)
    order = torch.randperm(num_blocks, device=device).int()
    width = ceil((max(context_lens, default=0) + spare_tokens) / fmt.block_size)
    tables = torch.full((len(context_lens), max(width, 1)), -1, dtype=torch.int32, device=device)
    taken = 0
    for row, count in zip(tables, counts, strict=True):
        row[:count] = order[taken : taken + count]
        taken += count
    q = torch.randn(len(context_lens), heads[0], head_dim, device=device).to(dtype)
    return AttentionCase(q, cache, tables, context_lens, fmt)
