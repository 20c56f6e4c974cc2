"""Which block holds the KV of which tokens: full blocks by the hash of all tokens up to their end.

Knows nothing of who uses a block; the block manager says when its content is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b

from qoq.scheduler.request import Request

_ROOT = bytes(32)


def hash_block(parent: bytes, token_ids: list[int]) -> bytes:
    """Digest of one full block and all before it.

    256 bits of BLAKE2b, so that no user can make a prompt that hits another one's blocks.
    """
    packed = struct.pack(f"<{len(token_ids)}i", *token_ids)
    return blake2b(parent + packed, digest_size=32).digest()


def root_of(cache_salt: str | None) -> bytes:
    """Parent of a first block, which a salt makes one that no other salt's blocks descend from."""
    if cache_salt is None:
        return _ROOT
    return blake2b(cache_salt.encode(), digest_size=32, person=b"qoq cache salt").digest()


class PrefixCache:
    """A one-to-one map between block hashes and block ids."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._hash_of

    def block_of(self, block_hash: bytes) -> int | None:
        return self._block_of.get(block_hash)

    def hash_of(self, block_id: int) -> bytes | None:
        return self._hash_of.get(block_id)

    def find(self, request: Request, first: int = 0) -> list[int]:
        """Blocks of the longest cached run of the request's tokens from its block ``first`` on.

        It leaves a token to compute logits from.
        """
        num_blocks = (request.num_tokens - 1) // self._block_size
        self._extend_hashes(request, num_blocks)
        found = []
        for block_hash in request.block_hashes[first:num_blocks]:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def register(self, request: Request, first: int, last: int) -> None:
        """Offer blocks ``first`` to ``last - 1`` of the request's table, full and computed.

        Where two requests computed the same tokens side by side, the first block stays and the
        other remains private to its request.
        """
        self._extend_hashes(request, last)
        for index in range(first, last):
            block_id, block_hash = request.block_table[index], request.block_hashes[index]
            if block_hash not in self._block_of:
                self.add(block_hash, block_id)

    def add(self, block_hash: bytes, block_id: int) -> None:
        """The hash and the block must both be new here."""
        self._block_of[block_hash] = block_id
        self._hash_of[block_id] = block_hash

    def evict(self, block_id: int) -> bytes | None:
        """Forget the block's content, if it had any, because it is about to be overwritten."""
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is not None:
            del self._block_of[block_hash]
        return block_hash

    def clear(self) -> None:
        self._block_of.clear()
        self._hash_of.clear()

    def check_integrity(self, tables: Iterable[tuple[list[int], list[bytes]]]) -> None:
        """Raises AssertionError where a table names a block that is cached under other tokens.

        A table comes with the hashes of its full blocks.
        """
        assert self._block_of == {value: key for key, value in self._hash_of.items()}
        for table, hashes in tables:
            for block_id, own_hash in zip(table, hashes, strict=False):
                cached_hash = self._hash_of.get(block_id, own_hash)
                assert cached_hash == own_hash, f"block {block_id} is cached under other tokens"

    def _extend_hashes(self, request: Request, num_blocks: int) -> None:
        hashes, size = request.block_hashes, self._block_size
        for index in range(len(hashes), num_blocks):
            token_ids = request.slice_token_ids(index * size, (index + 1) * size)
            parent = hashes[-1] if hashes else root_of(request.cache_salt)
            hashes.append(hash_block(parent, token_ids))
