"""The blocks of one memory: which are free, how many references the others have."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence

from qoq.scheduler.prefix_cache import PrefixCache


class BlockPool:
    """Every block is free (no references) or used (as many as block tables that name it).

    A free block may still hold cached content and is then taken last, the longest free first.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.cache = PrefixCache(block_size)
        self._num_references = [0] * num_blocks
        self._free = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_blocks(self) -> int:
        return len(self._num_references)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def is_free(self, block_id: int) -> bool:
        return self._num_references[block_id] == 0

    def take(self) -> tuple[int, bytes | None]:
        """A free block, now used, and the hash of the content that it held."""
        block_id, _ = self._free.popitem(last=False)
        self._num_references[block_id] = 1
        return block_id, self.cache.evict(block_id)

    def share(self, block_ids: Sequence[int]) -> None:
        """Add a reference to each, which may be free."""
        for block_id in block_ids:
            self._num_references[block_id] += 1
            self._free.pop(block_id, None)

    def release(self, block_ids: Sequence[int]) -> None:
        """Give up a reference to each, the last block first: prefixes are taken last."""
        for block_id in reversed(block_ids):
            self._num_references[block_id] -= 1
            if self._num_references[block_id] == 0:
                self._free[block_id] = None
                self._free.move_to_end(block_id, last=block_id in self.cache)

    def check_integrity(self, tables: Collection[tuple[list[int], list[bytes]]]) -> None:
        """Raises AssertionError unless references, free queue and tables agree; O(blocks).

        ``tables`` are all that may name blocks, each with the hashes of its full blocks.
        """
        counted = Counter(block_id for table, _ in tables for block_id in table)
        for block_id, num_references in enumerate(self._num_references):
            assert num_references == counted[block_id], f"block {block_id} leaked or freed twice"
            assert (num_references == 0) == (block_id in self._free), f"block {block_id} is astray"
            is_private = num_references <= 1 or block_id in self.cache
            assert is_private, f"block {block_id} is shared but not as a cached prefix"
        assert len(self._free) + sum(count > 0 for count in counted.values()) == self.num_blocks
        for table, _ in tables:
            assert len(set(table)) == len(table)
        self.cache.check_integrity(tables)
