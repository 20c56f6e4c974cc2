"""Which query rows meet which partitions of which contexts: made once a step, used by every layer.

Requests with one tile each (decodes, mostly) form one group, in which every request brings its own
keys. A request with more tiles is a group of its own, in which all tiles share the keys. Both read
``[X, n, rows]``: ``X`` sets of keys (request and kv head, or kv head), ``n`` tiles on each. Tiles
are sorted so that those that reach a later partition come first: a partition is a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

PARTITION = 128
# Tiles that share keys in one pass: enough to use them well, few enough to stay in the L2 cache.
MAX_TILES = 32
# Rows of a tile: at least these, and a multiple of 4. BLAS treats the last rows past a multiple of
# 4 differently, and then a row's bits would depend on its place in the tile.
MIN_TILE_ROWS = 8


@dataclass(frozen=True, slots=True)
class Partition:
    """``block_ids`` int64 ``[requests, blocks]``; ``mask`` True where hidden, None if nowhere.

    ``active`` is how many sets of keys and how many tiles on each take part.
    """

    block_ids: Tensor
    mask: Tensor | None
    active: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TileGroup:
    """``head_of_row`` int64 ``[X * n * rows]`` picks rows of the flattened queries ``[M * Hq]``.

    ``shape`` is ``(X, n, rows)``; rows from ``used_rows`` on are padding in every tile.
    """

    shape: tuple[int, int, int]
    used_rows: int
    head_of_row: Tensor
    partitions: list[Partition]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """``row_of_head`` int64 ``[M * Hq]`` finds each query head in the used rows of the groups."""

    num_tokens: int
    num_heads: int
    groups: list[TileGroup]
    row_of_head: Tensor


@dataclass(frozen=True, slots=True)
class _Tile:
    """Consecutive query tokens of one request: indices in the step, and their positions."""

    request: int
    tokens: list[int]
    positions: list[int]


def plan_attention(
    query_lens: list[int],
    context_lens: list[int],
    block_tables: list[list[int]],
    *,
    num_heads: int,
    num_kv_heads: int,
    block_size: int,
    window: int | None = None,
) -> AttentionPlan:
    """Plan one step. ``context_lens`` counts a request's tokens with this step's.

    Raises:
        ValueError: heads do not divide, a block does not divide a partition, or a context is
            longer than its block table.
    """
    _check(num_heads, num_kv_heads, block_size, context_lens, block_tables)
    planner = _Planner(num_heads, num_kv_heads, block_size, window, block_tables)
    single, shared, start = [], [], 0
    for request, (num_queries, length) in enumerate(zip(query_lens, context_lens, strict=True)):
        tiles = planner.tiles(request, start, num_queries, length)
        if len(tiles) == 1:
            single += tiles
        elif tiles:
            shared += [tiles[i : i + MAX_TILES][::-1] for i in range(0, len(tiles), MAX_TILES)]
        start += num_queries
    single.sort(key=lambda tile: tile.positions[-1], reverse=True)
    groups = [planner.group(single, shares_keys=False)] if single else []
    groups += [planner.group(tiles, shares_keys=True) for tiles in shared]
    return AttentionPlan(start, num_heads, groups, _invert(groups, start * num_heads))


@dataclass(frozen=True, slots=True)
class _Planner:
    num_heads: int
    num_kv_heads: int
    block_size: int
    window: int | None
    block_tables: list[list[int]]

    @property
    def heads_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def tile_rows(self) -> int:
        return ceil(max(MIN_TILE_ROWS, self.heads_per_kv) / 4) * 4

    @property
    def tile_tokens(self) -> int:
        return self.tile_rows // self.heads_per_kv

    def tiles(self, request: int, start: int, num_queries: int, length: int) -> list[_Tile]:
        first = length - num_queries
        return [
            _Tile(
                request,
                list(range(start + i, start + min(i + self.tile_tokens, num_queries))),
                list(range(first + i, first + min(i + self.tile_tokens, num_queries))),
            )
            for i in range(0, num_queries, self.tile_tokens)
        ]

    def group(self, tiles: list[_Tile], shares_keys: bool) -> TileGroup:
        heads = torch.tensor([self._rows(tile) for tile in tiles])  # [tiles, rows], head 0
        steps = torch.arange(self.num_kv_heads) * self.heads_per_kv
        positions = torch.tensor([self._positions(tile) for tile in tiles])
        if shares_keys:
            rows = torch.where(heads < 0, heads, heads + steps[:, None, None])
            shape = (self.num_kv_heads, len(tiles), self.tile_rows)
        else:
            rows = torch.where(heads[:, None] < 0, heads[:, None], heads[:, None] + steps[:, None])
            shape = (len(tiles) * self.num_kv_heads, 1, self.tile_rows)
        count = ceil((tiles[0].positions[-1] + 1) / PARTITION)
        used = max(len(tile.tokens) for tile in tiles) * self.heads_per_kv
        used_positions = positions[:, :used]
        partitions = [self._partition(p, tiles, used_positions, shares_keys) for p in range(count)]
        return TileGroup(shape, used, rows.flatten(), partitions)

    def _rows(self, tile: _Tile) -> list[int]:
        rows = [t * self.num_heads + g for t in tile.tokens for g in range(self.heads_per_kv)]
        return rows + [-1] * (self.tile_rows - len(rows))

    def _positions(self, tile: _Tile) -> list[int]:
        rows = [p for p in tile.positions for _ in range(self.heads_per_kv)]
        return rows + [-1] * (self.tile_rows - len(rows))

    def _partition(
        self, index: int, tiles: list[_Tile], positions: Tensor, shares_keys: bool
    ) -> Partition:
        start = index * PARTITION
        count = sum(tile.positions[-1] >= start for tile in tiles)
        key = torch.arange(start, start + PARTITION)
        row = positions[:count, :, None]
        mask = key > row
        if self.window is not None:
            mask |= key <= row - self.window
        owners = tiles[:1] if shares_keys else tiles[:count]
        blocks = torch.tensor([self._blocks(tile.request, start) for tile in owners])
        if shares_keys:
            return Partition(blocks, mask[None] if mask.any() else None, (self.num_kv_heads, count))
        mask = mask.repeat_interleave(self.num_kv_heads, dim=0)[:, None]
        return Partition(blocks, mask, (count * self.num_kv_heads, 1))

    def _blocks(self, request: int, start: int) -> list[int]:
        """The partition's blocks; past the table's end any block does, for it is masked."""
        first, count = start // self.block_size, PARTITION // self.block_size
        blocks = self.block_tables[request][first : first + count]
        return blocks + [0] * (count - len(blocks))


def _invert(groups: list[TileGroup], num_rows: int) -> Tensor:
    """Where each query head went; and point the rows of padding at some real head."""
    row_of_head = torch.zeros(num_rows, dtype=torch.int64)
    offset = 0
    for group in groups:
        heads = group.head_of_row.view(group.shape)[:, :, : group.used_rows].flatten()
        is_real = heads >= 0
        places = torch.arange(offset, offset + heads.numel())
        row_of_head[heads[is_real]] = places[is_real]
        group.head_of_row.clamp_(min=0)
        offset += heads.numel()
    return row_of_head


def _check(
    num_heads: int,
    num_kv_heads: int,
    block_size: int,
    context_lens: list[int],
    block_tables: list[list[int]],
) -> None:
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads: {num_heads} is not a multiple of {num_kv_heads} kv heads")
    if PARTITION % block_size:
        raise ValueError(f"block_size: {block_size} does not divide a partition of {PARTITION}")
    for length, table in zip(context_lens, block_tables, strict=True):
        if length > len(table) * block_size:
            raise ValueError(f"context_lens: {length} tokens do not fit in {len(table)} blocks")
