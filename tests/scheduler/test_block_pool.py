"""References and the free queue of one memory, whoever's tables name its blocks."""

import pytest

from qoq.scheduler.block_pool import BlockPool


def make_pool(num_blocks: int = 4) -> BlockPool:
    return BlockPool(num_blocks, block_size=2)


def take(pool: BlockPool, content: bytes | None = None) -> int:
    block_id, _ = pool.take()
    if content is not None:
        pool.cache.add(content, block_id)
    return block_id


def test_a_taken_block_tells_what_it_held():
    """Fails if evicted content cannot be saved elsewhere, or stays findable."""
    pool = make_pool(num_blocks=1)
    pool.release([take(pool, b"a")])
    assert pool.cache.block_of(b"a") == 0
    assert pool.take() == (0, b"a")
    assert pool.cache.block_of(b"a") is None
    pool.release([0])
    assert pool.take() == (0, None)


def test_a_block_is_free_once_all_references_are_gone():
    """Fails if sharing is not counted, or revives a block without taking it out of the queue."""
    pool = make_pool(num_blocks=1)
    block = take(pool, b"a")
    pool.release([block])
    pool.share([block])
    pool.share([block])
    assert pool.num_free == 0
    pool.check_integrity([([block], [b"a"]), ([block], [b"a"])])
    pool.release([block])
    assert not pool.is_free(block)
    pool.release([block])
    assert pool.is_free(block) and pool.num_free == 1


def test_takes_empty_blocks_first_and_then_tails_before_heads():
    """Fails if content goes while empty blocks lie free, or a head goes while its tail stays."""
    pool = make_pool(num_blocks=3)
    head, tail, empty = take(pool, b"head"), take(pool, b"tail"), take(pool)
    pool.release([empty])
    pool.release([head, tail])
    assert [take(pool) for _ in range(3)] == [empty, tail, head]


@pytest.mark.parametrize(
    "tables",
    [
        [],
        [([0, 1], [])],
        [([0, 0], [])],
        [([0], [b"other"])],
        [([0], [b"a"]), ([0], [b"a"])],
    ],
    ids=["leaked", "held but free", "twice in a table", "other content", "one reference too few"],
)
def test_integrity_check_sees_damage(tables):
    """Fails if the check that all other tests lean on is blind in one eye."""
    pool = make_pool()
    assert take(pool, b"a") == 0
    pool.check_integrity([([0], [b"a"])])
    with pytest.raises(AssertionError):
        pool.check_integrity(tables)


def test_integrity_check_sees_a_shared_block_that_is_not_cached():
    """Fails if one request could write into what another reads."""
    pool = make_pool()
    block = take(pool)
    pool.share([block])
    with pytest.raises(AssertionError, match="shared but not as a cached prefix"):
        pool.check_integrity([([block], []), ([block], [])])
