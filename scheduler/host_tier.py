"""Blocks in host memory: those of preempted requests, and what the device's prefix cache gave up.

Accounting only. What has to be copied is collected for the next batch that runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from qoq.scheduler.batch import BlockCopies
from qoq.scheduler.block_pool import BlockPool
from qoq.scheduler.request import Request


class HostTier:
    """A batch runs its copies to the host before those to the device, and both before its step.

    So a block that a copy to the device reads keeps a reference until the batch is made: no copy
    to the host may take it in the meantime. A block that is taken twice for one batch is written
    once, by the later copy.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_swapped_out = 0
        self.num_swapped_in = 0
        self._pool = BlockPool(num_blocks, block_size)
        self._outgoing: dict[int, int] = {}  # device block by host block
        self._incoming = BlockCopies()

    def find(self, request: Request, first: int) -> list[int]:
        """Cached blocks that continue the request's prefix from its block ``first`` on."""
        return self._pool.cache.find(request, first)

    def can_save(self, num_blocks: int) -> bool:
        return num_blocks <= self._pool.num_free

    def save(self, device_block: int, block_hash: bytes | None) -> int:
        """A block with a reference to it that will hold the content of a device's block.

        Content with a hash is copied only where it is not here, and can be found from then on.
        """
        known = None if block_hash is None else self._pool.cache.block_of(block_hash)
        if known is not None:
            self._pool.share([known])
            return known
        host_block, _ = self._pool.take()
        self._outgoing[host_block] = device_block
        if block_hash is not None:
            self._pool.cache.add(block_hash, host_block)
        return host_block

    def keep(self, device_block: int, block_hash: bytes) -> None:
        """Cache content that the device is about to overwrite, unless all blocks are held."""
        if self.can_save(1):
            self.release([self.save(device_block, block_hash)])

    def read(self, host_blocks: Sequence[int]) -> None:
        """Nobody may take these before ``load`` copies them."""
        self._pool.share(host_blocks)
        self._incoming.sources.extend(host_blocks)

    def load(self, device_blocks: Sequence[int]) -> None:
        """Copy what was last ``read`` to as many blocks of the device."""
        self._incoming.targets.extend(device_blocks)

    def release(self, host_blocks: Sequence[int]) -> None:
        self._pool.release(host_blocks)

    def take_copies(self) -> tuple[BlockCopies, BlockCopies]:
        """To the host and to the device, of the batch that is made now."""
        outgoing = BlockCopies(list(self._outgoing.values()), list(self._outgoing))
        incoming = self._incoming
        self._pool.release(incoming.sources)
        self._outgoing, self._incoming = {}, BlockCopies()
        self.num_swapped_out += len(outgoing.sources)
        self.num_swapped_in += len(incoming.sources)
        return outgoing, incoming

    def clear(self) -> None:
        """Forget all cached content, and what was to be copied here."""
        self._pool.cache.clear()
        self._outgoing = {}

    def check_integrity(self, holders: Collection[Request]) -> None:
        """Raises AssertionError unless blocks and the tables of ``holders`` agree."""
        assert not self._incoming.sources, "copies to the device were not put into a batch"
        self._pool.check_integrity([(r.host_table, r.block_hashes) for r in holders])
