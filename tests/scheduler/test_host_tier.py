"""What has to be copied for a batch, and that no copy takes another one's block."""

import pytest

from qoq.scheduler.host_tier import HostTier
from qoq.scheduler.prefix_cache import hash_block, root_of
from qoq.scheduler.request import Request, SamplingParams

HASH = hash_block(root_of(None), [1, 2])


def make_tier(num_blocks: int = 2) -> HostTier:
    return HostTier(num_blocks, block_size=2)


def holder(host_table: list[int]) -> Request:
    return Request(
        request_id="r",
        prompt_token_ids=[1, 2, 3],
        sampling=SamplingParams(max_tokens=8),
        host_table=host_table,
        block_hashes=[HASH],
    )


def outgoing(tier: HostTier) -> dict[int, int]:
    """Device block by host block, of a batch that is made now."""
    copies, _ = tier.take_copies()
    return dict(zip(copies.targets, copies.sources, strict=True))


def test_saved_blocks_are_held_and_copied_once():
    """Fails if a copy is lost, made twice, or its block given to somebody else."""
    tier = make_tier()
    table = [tier.save(7, None), tier.save(9, None)]
    assert not tier.can_save(1)
    tier.keep(5, HASH)
    assert outgoing(tier) == {table[0]: 7, table[1]: 9}
    assert outgoing(tier) == {}
    assert tier.num_swapped_out == 2
    tier.check_integrity([holder(table)])
    tier.release(table)
    assert tier.can_save(2)
    tier.check_integrity([])


def test_kept_content_is_found_and_gives_way_to_what_is_saved():
    """Fails if an evicted block is not found, or keeps a preempted request from being saved."""
    tier = make_tier(num_blocks=1)
    tier.keep(7, HASH)
    assert outgoing(tier) == {0: 7}
    assert tier.find(holder([]), first=0) == [0]
    assert tier.can_save(1)
    assert tier.save(9, None) == 0
    assert tier.find(holder([]), first=0) == []


def test_content_that_is_here_is_not_copied_again():
    """Fails if every request that shares a prefix takes blocks and time for it."""
    tier = make_tier()
    tier.keep(7, HASH)
    tier.take_copies()
    table = [tier.save(7, HASH)]
    other = [tier.save(8, HASH)]
    assert table == other
    assert outgoing(tier) == {}
    tier.check_integrity([holder(table), holder(other)])


def test_kept_content_that_is_used_again_is_recent():
    """Fails if the queue goes by first use: what the device evicts most often would go first."""
    tier = make_tier()
    tier.keep(7, HASH)
    tier.keep(8, b"other")
    tier.keep(9, HASH)
    tier.keep(6, b"third")
    assert len(tier.find(holder([]), first=0)) == 1


def test_a_block_that_is_taken_twice_for_a_batch_is_written_once():
    """Fails if two copies race for a block, or the first one wins."""
    tier = make_tier(num_blocks=1)
    tier.keep(7, b"first")
    tier.keep(8, HASH)
    assert outgoing(tier) == {0: 8}


def test_nobody_takes_a_block_that_is_read_before_the_batch_is_made():
    """Fails if a copy to the host overwrites what a copy to the device of the same batch reads."""
    tier = make_tier(num_blocks=1)
    tier.keep(7, HASH)
    tier.take_copies()
    tier.read([0])
    tier.keep(8, b"other")
    assert not tier.can_save(1)
    with pytest.raises(AssertionError, match="not put into a batch"):
        tier.check_integrity([])
    tier.load([3])
    copies, incoming = tier.take_copies()
    assert copies.sources == []
    assert (incoming.sources, incoming.targets) == ([0], [3])
    assert tier.num_swapped_in == 1
    assert tier.can_save(1)
    tier.check_integrity([])


def test_forgets_content_and_copies():
    """Fails if after a failed step something damaged could be found, or copied over what is new."""
    tier = make_tier()
    tier.keep(7, HASH)
    tier.clear()
    assert tier.find(holder([]), first=0) == []
    assert outgoing(tier) == {}
