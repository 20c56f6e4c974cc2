"""Requests with random keys and values in a paged cache, and their attention through a plan."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qoq.kernels.attention_plan import plan_attention
from qoq.kernels.kv_cache import KvCache, KvFormat, SlotMapping, load_kv, load_scales, store_kv
from qoq.kernels.paged_attention import paged_attention, paged_attention_reference

from .closeness import U32

FORMATS = {"kv4": (4, torch.uint8), "kv8": (8, torch.uint8), "fp32": (None, torch.float32)}


@dataclass(frozen=True)
class Contexts:
    """``queries[r]`` [length, Hq, D] of every position; the cache holds all keys and values."""

    queries: list[Tensor]
    cache: KvCache
    tables: list[list[int]]
    fmt: KvFormat
    window: int | None = None

    @property
    def scale(self) -> float:
        return self.fmt.head_dim**-0.5

    @property
    def lengths(self) -> list[int]:
        return [q.shape[0] for q in self.queries]

    def run(self, spans: list[tuple[int, int, int]]) -> Tensor:
        """One step of spans ``(request, start, stop)`` of positions; [M, Hq, D]."""
        q = torch.cat([self.queries[r][start:stop] for r, start, stop in spans])
        plan = plan_attention(
            [stop - start for _, start, stop in spans],
            [stop for _, _, stop in spans],
            [self.tables[r] for r, _, _ in spans],
            num_heads=q.shape[1],
            num_kv_heads=self.fmt.num_kv_heads,
            block_size=self.fmt.block_size,
            window=self.window,
        )
        return paged_attention(q, self.cache, plan, self.fmt, self.scale)

    def prefill(self, request: int, chunk: int) -> Tensor:
        """All positions of one request, ``chunk`` at a time."""
        length = self.lengths[request]
        starts = range(0, length, chunk)
        return torch.cat([self.run([(request, s, min(s + chunk, length))]) for s in starts])

    def reference(self, spans: list[tuple[int, int, int]]) -> Tensor:
        return paged_attention_reference(
            torch.cat([self.queries[r][start:stop] for r, start, stop in spans]).double(),
            self.cache,
            [self.tables[r] for r, _, _ in spans],
            [stop - start for _, start, stop in spans],
            [stop for _, _, stop in spans],
            self.fmt,
            self.scale,
            self.window,
        )

    def bound(self) -> float:
        """Largest error of fp32 arithmetic, from the largest magnitudes that meet.

        A score sums D products and a few terms, of which each sum and product may be off by a
        roundoff of the sum of magnitudes, and an error e of all scores moves a weighted mean of
        values by 2 e times their magnitude. The weights and weighted values sum 128 terms and the
        partitions, with a few roundings each. Quantized values enter as codes * scale and bias.
        """
        size, keys, values = self.fmt.head_dim, 0.0, 0.0
        for length, table in zip(self.lengths, self.tables, strict=True):
            blocks = self.cache.blocks[torch.tensor(table)]
            if self.fmt.bits is None:
                parts = load_kv(blocks, 1, self.fmt)[:, :, :length].abs().amax(dim=(1, 2, 3))
            else:
                scale, bias = load_scales(blocks, 1, self.fmt)[..., :length].abs().unbind(dim=1)
                parts = ((2**self.fmt.bits - 1) * scale + bias).amax(dim=(1, 2))
            keys, values = max(keys, float(parts[0])), max(values, float(parts[1]))
        queries = max(q.abs().sum(dim=-1).max() for q in self.queries) * self.scale
        score_error = (size + 8) * U32 * queries * keys
        terms = 2 * (128 + max(self.lengths) / 128 + 8) * U32
        return float((2 * score_error + terms) * values)

    def moved(self, seed: int) -> Contexts:
        """The same requests in other blocks; what they do not own holds garbage."""
        shuffled = list(range(self.cache.blocks.shape[0] + 3))
        random.Random(seed).shuffle(shuffled)
        cache = garbage(self.fmt, len(shuffled))
        tables = [[shuffled[block] for block in table] for table in self.tables]
        for old, new in zip(self.tables, tables, strict=True):
            cache.blocks[torch.tensor(new)] = self.cache.blocks[torch.tensor(old)]
        return replace(self, cache=cache, tables=tables)


def garbage(fmt: KvFormat, num_blocks: int) -> KvCache:
    """As an earlier owner may leave a block: every code 0xFF, scales of either end, all finite."""
    cache = fmt.allocate(num_blocks)
    if fmt.bits is None:
        cache.blocks.fill_(1e15)
    else:
        assert cache.scales is not None
        cache.codes.fill_(0xFF)
        cache.scales.copy_(torch.tensor([65504.0, -65504.0])[:, None])
    return cache


def make_contexts(
    lengths: list[int],
    kind: str = "kv4",
    *,
    heads: tuple[int, int] = (6, 2),
    head_dim: int = 32,
    window: int | None = None,
    spare_blocks: int = 0,
) -> Contexts:
    """``heads`` are those of queries and of keys; tables interleave and end in spare blocks."""
    bits, dtype = FORMATS[kind]
    fmt = KvFormat(heads[1], head_dim, bits, dtype)
    counts = [-(-length // fmt.block_size) + spare_blocks for length in lengths]
    free = list(range(sum(counts)))
    random.Random(0).shuffle(free)
    tables = [[free.pop() for _ in range(count)] for count in counts]
    cache = garbage(fmt, sum(counts))
    for length, table in zip(lengths, tables, strict=True):
        positions = torch.arange(length)
        slots = SlotMapping(torch.tensor(table)[positions // 64], positions % 64)
        store_kv(cache, slots, torch.randn(length, 2, heads[1], head_dim), fmt)
    queries = [torch.randn(length, heads[0], head_dim) for length in lengths]
    return Contexts(queries, cache, tables, fmt, window)
