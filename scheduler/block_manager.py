"""Who owns which KV block: reference counts, the free queue, and sharing through the prefix cache.

Accounting only. Returning a block while a step that writes it is in flight is safe, because the
device runs steps in order and whoever gets the block writes it in a later one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection

from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.prefix_cache import PrefixCache
from qoq.scheduler.request import Request


class BlockManager:
    """Every block is free (no references) or used (as many as block tables that name it).

    A free block may still hold cached content and is then taken last, the longest free first.
    Ask (``can_admit``, ``can_allocate``) before doing (``admit``, ``allocate``).
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0
        self._num_blocks = config.num_blocks
        self._block_size = config.block_size
        self._num_references = [0] * config.num_blocks
        self._free = OrderedDict.fromkeys(range(config.num_blocks))
        self._is_caching = config.enable_prefix_caching
        self._cache = PrefixCache(config.block_size)

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    @property
    def num_used_blocks(self) -> int:
        return self._num_blocks - len(self._free)

    @property
    def usage(self) -> float:
        """Used share of all blocks. Cached blocks that no request uses count as free."""
        return self.num_used_blocks / self._num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def find_prefix(self, request: Request) -> list[int]:
        """Blocks that hold the request's first tokens already, never all of its tokens.

        None where every prompt token must be computed, for more than its KV.
        """
        is_sharing = self._is_caching and not request.sampling.needs_whole_prompt
        return self._cache.find(request) if is_sharing else []

    def can_admit(self, request: Request, prefix: list[int], num_reserved: int) -> bool:
        """Whether all known tokens fit beside the cached prefix and leave ``num_reserved`` free."""
        num_new = self.blocks_for(request.num_tokens) - len(prefix)
        num_revived = sum(self._num_references[block_id] == 0 for block_id in prefix)
        return num_new + num_revived + num_reserved <= len(self._free)

    def admit(self, request: Request, prefix: list[int]) -> None:
        """Start the request's table with the prefix, whose tokens then count as computed."""
        for block_id in prefix:
            self._num_references[block_id] += 1
            self._free.pop(block_id, None)
        request.block_table = list(prefix)
        request.num_computed_tokens = len(prefix) * self._block_size
        if self._is_caching and request.num_preemptions == 0:
            self.num_prefix_queries += request.num_tokens
            self.num_prefix_hits += request.num_computed_tokens

    def can_allocate(self, request: Request, num_tokens: int) -> bool:
        return self._num_missing(request, num_tokens) <= len(self._free)

    def allocate(self, request: Request, num_tokens: int) -> list[int]:
        """Extend the table to hold ``num_tokens`` more computed tokens; returns the added ids."""
        added = [self._take_free() for _ in range(self._num_missing(request, num_tokens))]
        request.block_table.extend(added)
        return added

    def register(self, request: Request, start: int, end: int) -> None:
        """Make the blocks that became full with tokens ``start`` to ``end - 1`` findable.

        The tokens must be known, and their KV computed by a step submitted before any later one.
        """
        if self._is_caching:
            self._cache.register(request, start // self._block_size, end // self._block_size)

    def free(self, request: Request) -> None:
        """Give up the request's references, the last block first: prefixes are taken last."""
        for block_id in reversed(request.block_table):
            self._num_references[block_id] -= 1
            if self._num_references[block_id] == 0:
                self._free[block_id] = None
                self._free.move_to_end(block_id, last=block_id in self._cache)
        request.block_table = []
        request.num_computed_tokens = 0

    def clear_cache(self) -> None:
        """Forget all cached content."""
        self._cache.clear()

    def check_integrity(self, holders: Collection[Request]) -> None:
        """Raises AssertionError unless references, free queue and tables agree; O(blocks).

        ``holders`` are all requests that may hold blocks.
        """
        counted = Counter(block_id for request in holders for block_id in request.block_table)
        for block_id, num_references in enumerate(self._num_references):
            assert num_references == counted[block_id], f"block {block_id} leaked or freed twice"
            assert (num_references == 0) == (block_id in self._free), f"block {block_id} is astray"
            is_private = num_references <= 1 or block_id in self._cache
            assert is_private, f"block {block_id} is shared but not as a cached prefix"
        assert len(self._free) + sum(count > 0 for count in counted.values()) == self._num_blocks
        for request in holders:
            assert len(set(request.block_table)) == len(request.block_table)
        self._cache.check_integrity(holders)

    def _num_missing(self, request: Request, num_tokens: int) -> int:
        end = request.num_computed_tokens + num_tokens
        return self.blocks_for(end) - len(request.block_table)

    def _take_free(self) -> int:
        block_id, _ = self._free.popitem(last=False)
        self._cache.evict(block_id)
        self._num_references[block_id] = 1
        return block_id
