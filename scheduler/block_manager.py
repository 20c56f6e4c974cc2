"""Which blocks a request's KV lies in: its table, what it shares, what it has in host memory.

Accounting only. Returning a block while a step that writes it is in flight is safe, because the
device runs steps in order and whoever gets the block writes it in a later one. Copying it to the
host then is safe too, for the same reason.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qoq.scheduler.batch import BlockCopies
from qoq.scheduler.block_pool import BlockPool
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.host_tier import HostTier
from qoq.scheduler.request import Request


@dataclass(frozen=True, slots=True)
class Prefix:
    """KV of a request's first ``num_tokens``: blocks to share, then host blocks to copy in."""

    shared: list[int]
    host_blocks: list[int]
    num_tokens: int


class BlockManager:
    """Ask (``can_admit``, ``can_allocate``) before doing (``admit``, ``allocate``)."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0
        self._block_size = config.block_size
        self._is_caching = config.enable_prefix_caching
        self._separates_output = config.separates_output
        self._pool = BlockPool(config.num_blocks, config.block_size)
        self._host = HostTier(config.num_host_blocks, config.block_size)

    @property
    def num_free_blocks(self) -> int:
        return self._pool.num_free

    @property
    def num_used_blocks(self) -> int:
        return self._pool.num_blocks - self._pool.num_free

    @property
    def usage(self) -> float:
        """Used share of all blocks. Cached blocks that no request uses count as free."""
        return self.num_used_blocks / self._pool.num_blocks

    @property
    def num_swapped_out(self) -> int:
        return self._host.num_swapped_out

    @property
    def num_swapped_in(self) -> int:
        return self._host.num_swapped_in

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def find_prefix(self, request: Request) -> Prefix:
        """KV of the request's first tokens that is there already, never of all its tokens.

        None of other requests where every prompt token must be computed, for more than its KV.
        """
        is_sharing = self._is_caching and not request.sampling.needs_whole_prompt
        limit = self._num_sharable_blocks(request) if is_sharing else 0
        shared = self._pool.cache.find(request)[:limit] if limit else []
        first = len(shared)
        if request.host_table:
            num_tokens = max(request.num_saved_tokens, first * self._block_size)
            return Prefix(shared, request.host_table[first:], num_tokens)
        host_blocks = self._host.find(request, first)[: limit - first] if limit else []
        return Prefix(shared, host_blocks, (first + len(host_blocks)) * self._block_size)

    def can_admit(self, request: Request, prefix: Prefix, num_reserved: int) -> bool:
        """Whether all known tokens fit beside the shared prefix and leave ``num_reserved`` free."""
        num_new = self.blocks_for(request.num_tokens) - len(prefix.shared)
        num_revived = sum(self._pool.is_free(block_id) for block_id in prefix.shared)
        return num_new + num_revived + num_reserved <= self._pool.num_free

    def admit(self, request: Request, prefix: Prefix) -> None:
        """Start the request's table with the prefix, whose tokens then count as computed."""
        self._pool.share(prefix.shared)
        self._host.read(prefix.host_blocks)
        loaded = [self._take() for _ in prefix.host_blocks]
        self._host.load(loaded)
        self.forget_saved(request)
        request.block_table = prefix.shared + loaded
        request.num_computed_tokens = prefix.num_tokens
        if self._is_caching and request.num_preemptions == 0:
            self.num_prefix_queries += request.num_tokens
            self.num_prefix_hits += request.num_computed_tokens

    def can_allocate(self, request: Request, num_tokens: int) -> bool:
        return self._num_missing(request, num_tokens) <= self._pool.num_free

    def allocate(self, request: Request, num_tokens: int) -> list[int]:
        """Extend the table to hold ``num_tokens`` more computed tokens; returns the added ids."""
        added = [self._take() for _ in range(self._num_missing(request, num_tokens))]
        request.block_table.extend(added)
        return added

    def register(self, request: Request, start: int, end: int) -> None:
        """Make the blocks that became full with tokens ``start`` to ``end - 1`` findable.

        The tokens must be known, and their KV be there before any step submitted later.
        """
        if self._is_caching:
            first, last = start // self._block_size, end // self._block_size
            self._pool.cache.register(request, first, last)

    def save(self, request: Request) -> None:
        """Copy the request's KV to host blocks, if so many can be had, before it is freed."""
        if request.can_resume_midway and self._host.can_save(len(request.block_table)):
            cache = self._pool.cache
            request.host_table = [self._host.save(b, cache.hash_of(b)) for b in request.block_table]
            request.num_saved_tokens = request.num_computed_tokens

    def forget_saved(self, request: Request) -> None:
        """Give up the request's host blocks, if it has any."""
        self._host.release(request.host_table)
        request.host_table = []
        request.num_saved_tokens = 0

    def free(self, request: Request) -> None:
        """Give up the request's references to the device's blocks."""
        self._pool.release(request.block_table)
        request.block_table = []
        request.num_computed_tokens = 0

    def take_copies(self) -> tuple[BlockCopies, BlockCopies]:
        """To the host and to the device, of the batch that is made now."""
        return self._host.take_copies()

    def clear_cache(self) -> None:
        """Forget all cached content."""
        self._pool.cache.clear()
        self._host.clear()

    def check_integrity(self, holders: Collection[Request]) -> None:
        """Raises AssertionError unless both memories and the requests' tables agree; O(blocks).

        ``holders`` are all requests that may hold blocks.
        """
        self._pool.check_integrity([(r.block_table, r.block_hashes) for r in holders])
        self._host.check_integrity(holders)

    def _num_sharable_blocks(self, request: Request) -> int:
        """Of a request that resumes, output may be what another one has as its prompt."""
        prompt_only = self._separates_output
        num_tokens = len(request.prompt_token_ids) if prompt_only else request.num_tokens
        return num_tokens // self._block_size

    def _num_missing(self, request: Request, num_tokens: int) -> int:
        end = request.num_computed_tokens + num_tokens
        return self.blocks_for(end) - len(request.block_table)

    def _take(self) -> int:
        block_id, evicted = self._pool.take()
        if evicted is not None:
            self._host.keep(block_id, evicted)
        return block_id
