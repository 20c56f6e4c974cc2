"""Which programs attend to a step's prompts, and which blocks they need dequantized.

Made on the host once a step. One matrix holds both, so that it is one copy to the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS = 128  # query heads of a program: those that share a kv head, of consecutive tokens
BLOCK = 64  # tokens of a block of the cache
SPAN = 128  # a context in the scratch begins and ends at a multiple, whichever tile a kernel has

_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """``table`` int32 ``[num_programs + num_blocks, 4]``.

    A program is its first token in the step, its tokens, the position of the first, and the row
    of the scratch that its request's position 0 has (with a window it may lie before the first).
    Longest first. A block is its request, its index in the block table, its tokens (0 in what
    fills a span), and its first row in the scratch.
    """

    table: Tensor
    num_programs: int
    num_tokens: int
    num_heads: int
    window: int | None

    @property
    def num_blocks(self) -> int:
        return self.table.shape[0] - self.num_programs

    @property
    def num_rows(self) -> int:
        """Tokens of a head's keys in the scratch."""
        return self.num_blocks * BLOCK

    @property
    def programs(self) -> Tensor:
        return self.table[: self.num_programs]

    @property
    def blocks(self) -> Tensor:
        return self.table[self.num_programs :]

    def to(self, device: torch.device) -> PrefillPlan:
        return replace(self, table=self.table.to(device, non_blocking=True))


def plan_prefill(
    query_lens: list[int],
    context_lens: list[int],
    num_heads: int,
    num_kv_heads: int,
    window: int | None = None,
) -> PrefillPlan:
    """``context_lens`` counts a request's tokens with this step's; its queries are the last ones.

    Raises:
        ValueError: heads do not divide, or a request has more queries than tokens.
    """
    if num_heads % num_kv_heads or num_heads // num_kv_heads > ROWS:
        raise ValueError(f"num_heads: {num_heads} do not share {num_kv_heads} kv heads")
    for queries, length in zip(query_lens, context_lens, strict=True):
        if queries > length:
            raise ValueError(f"query_lens: {queries} queries in a context of {length}")
    num_queries = np.array(query_lens, dtype=np.int64)
    lengths = np.array(context_lens, dtype=np.int64)
    seen_from = np.maximum(lengths - num_queries - (window or 1 << 30) + 1, 0)
    first_block = seen_from // SPAN * (SPAN // BLOCK)
    num_blocks = -(-lengths // SPAN) * (SPAN // BLOCK) - first_block
    num_blocks[num_queries == 0] = 0
    blocks = _blocks(first_block, num_blocks, lengths)
    base_row = (np.cumsum(num_blocks) - num_blocks - first_block) * BLOCK
    step = ROWS // (num_heads // num_kv_heads)
    programs = _programs(num_queries, lengths, base_row, step)
    reach = programs[:, 1] + np.minimum(programs[:, 2], window or 1 << 30)
    programs = programs[np.argsort(-reach, kind="stable")]
    table = torch.from_numpy(np.concatenate((programs, blocks)).astype(np.int32))
    return PrefillPlan(table, len(programs), int(num_queries.sum()), num_heads, window)


def _programs(num_queries: _Ints, lengths: _Ints, base_row: _Ints, step: int) -> _Ints:
    request, index = _spread(-(-num_queries // step))
    start = index * step
    first_token = np.cumsum(num_queries) - num_queries
    columns = (
        first_token[request] + start,
        np.minimum(num_queries[request] - start, step),
        (lengths - num_queries)[request] + start,
        base_row[request],
    )
    return np.stack(columns, axis=1)


def _blocks(first_block: _Ints, num_blocks: _Ints, lengths: _Ints) -> _Ints:
    request, index = _spread(num_blocks)
    block = first_block[request] + index
    tokens = np.clip(lengths[request] - block * BLOCK, 0, BLOCK)
    return np.stack((request, block, tokens, np.arange(len(block)) * BLOCK), axis=1)


def _spread(counts: _Ints) -> tuple[_Ints, _Ints]:
    """For each of ``counts[i]`` things: ``i``, and which of them it is."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
