"""Blocks are owned, shared, given back and taken again; nothing is ever lost or held twice."""

import pytest

from qoq.scheduler.block_manager import BlockManager, Prefix
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.request import Request, SamplingParams


def make_manager(
    num_blocks: int = 6, *, num_host_blocks: int = 0, caching: bool = True
) -> BlockManager:
    """Blocks of 2 tokens."""
    config = SchedulerConfig(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=64,
        num_host_blocks=num_host_blocks,
        enable_prefix_caching=caching,
    )
    return BlockManager(config)


def make_request(prompt: list[int]) -> Request:
    return Request(request_id="r", prompt_token_ids=prompt, sampling=SamplingParams(max_tokens=8))


def num_shared(blocks: BlockManager, prompt: list[int]) -> int:
    return len(blocks.find_prefix(make_request(prompt)).shared)


def run_prompt(blocks: BlockManager, prompt: list[int]) -> Request:
    """Admit a request and compute its whole prompt."""
    request = make_request(prompt)
    prefix = blocks.find_prefix(request)
    assert blocks.can_admit(request, prefix, num_reserved=0)
    blocks.admit(request, prefix)
    start = request.num_computed_tokens
    blocks.allocate(request, len(prompt) - start)
    request.num_computed_tokens = len(prompt)
    blocks.register(request, start, len(prompt))
    return request


def test_a_new_block_is_taken_only_where_the_last_is_full():
    """Fails on an off-by-one in the number of blocks, either way."""
    blocks = make_manager()
    request = run_prompt(blocks, [1, 2, 3])
    assert len(request.block_table) == 2
    assert blocks.allocate(request, 1) == []
    request.num_computed_tokens = 4
    assert blocks.allocate(request, 1) == request.block_table[2:]
    assert len(request.block_table) == 3
    blocks.check_integrity([request])


def test_asks_before_it_allocates():
    """Fails if the answer counts blocks that are not there, or refuses the last ones."""
    blocks = make_manager(num_blocks=3)
    request = run_prompt(blocks, [1, 2])
    assert blocks.can_allocate(request, 4)
    assert not blocks.can_allocate(request, 5)
    assert blocks.can_admit(make_request([5, 6, 7, 8]), Prefix([], [], 0), num_reserved=0)
    assert not blocks.can_admit(make_request([5, 6, 7, 8]), Prefix([], [], 0), num_reserved=1)


def test_a_free_prefix_block_is_not_counted_twice():
    """Fails if cached blocks are both hits and room: 2 hits free, 2 used, 2 more do not exist."""
    blocks = make_manager(num_blocks=4)
    blocks.free(run_prompt(blocks, [1, 2, 3, 4]))
    run_prompt(blocks, [7, 8, 9])
    request = make_request([1, 2, 3, 4, 5])
    prefix = blocks.find_prefix(request)
    assert len(prefix.shared) == 2 and blocks.num_free_blocks == 2
    assert not blocks.can_admit(request, prefix, num_reserved=0)


def test_prefix_is_shared_and_outlives_its_first_owner():
    """Fails if sharing does not count references, so that the first free gives the block away."""
    blocks = make_manager()
    first = run_prompt(blocks, [1, 2, 3, 4])
    second = run_prompt(blocks, [1, 2, 3, 4, 5])
    assert second.block_table[:2] == first.block_table
    blocks.check_integrity([first, second])
    blocks.free(first)
    assert blocks.num_used_blocks == 3
    blocks.check_integrity([second])
    blocks.free(second)
    assert blocks.num_used_blocks == 0


def test_usage_is_zero_when_nobody_holds_a_block():
    """Fails if cached content counts as used: an idle engine would look full."""
    blocks = make_manager(num_blocks=4)
    request = run_prompt(blocks, [1, 2, 3, 4])
    assert blocks.usage == 0.5
    blocks.free(request)
    assert blocks.usage == 0.0
    assert num_shared(blocks, [1, 2, 3, 4, 5]) == 2


def test_takes_blocks_without_content_first():
    """Fails if cached content is thrown away while empty blocks lie free."""
    blocks = make_manager(num_blocks=4)
    blocks.free(run_prompt(blocks, [1, 2, 3]))
    run_prompt(blocks, [7, 8, 9, 10, 11, 12])
    assert num_shared(blocks, [1, 2, 3]) == 1


def test_evicts_the_longest_free_prefix_first_and_its_tail_before_its_head():
    """Fails if the queue is not in order of freeing, or heads go first and tails are useless."""
    blocks = make_manager(num_blocks=6)
    old, recent = run_prompt(blocks, [1, 2, 3, 4]), run_prompt(blocks, [5, 6, 7, 8])
    blocks.free(old)
    blocks.free(recent)
    kept = []
    for token_id in range(20, 25):
        run_prompt(blocks, [token_id])
        kept.append([num_shared(blocks, p) for p in ([1, 2, 3, 4, 0], [5, 6, 7, 8, 0])])
    assert kept == [[2, 2], [2, 2], [1, 2], [0, 2], [0, 1]]


def test_a_hit_makes_a_prefix_recent():
    """Fails if the queue goes by first use: what is used most would be evicted first."""
    blocks = make_manager(num_blocks=3)
    blocks.free(run_prompt(blocks, [1, 2]))
    blocks.free(run_prompt(blocks, [5, 6]))
    blocks.free(run_prompt(blocks, [1, 2, 3]))
    run_prompt(blocks, [7, 8, 9])
    assert num_shared(blocks, [1, 2, 0]) == 1
    assert num_shared(blocks, [5, 6, 0]) == 0


def test_counts_queries_and_hits_in_tokens_but_not_of_resumed_requests():
    """Fails if a request's own preempted blocks inflate the hit rate."""
    blocks = make_manager()
    blocks.free(run_prompt(blocks, [1, 2, 3, 4]))
    request = run_prompt(blocks, [1, 2, 3, 4, 5])
    assert (blocks.num_prefix_queries, blocks.num_prefix_hits) == (9, 4)
    blocks.free(request)
    request.num_preemptions = 1
    blocks.admit(request, blocks.find_prefix(request))
    assert (blocks.num_prefix_queries, blocks.num_prefix_hits) == (9, 4)


def test_a_shared_prefix_may_reach_further_than_what_was_saved():
    """Fails if a resumed request writes into a block that others read."""
    blocks = make_manager(num_host_blocks=4)
    request = make_request([1, 2, 3, 4, 5])
    blocks.admit(request, Prefix([], [], 0))
    blocks.allocate(request, 3)
    request.num_computed_tokens = 3
    blocks.save(request)
    blocks.free(request)
    other = run_prompt(blocks, [1, 2, 3, 4, 5])
    prefix = blocks.find_prefix(request)
    assert prefix == Prefix(other.block_table[:2], [], 4)
    blocks.admit(request, prefix)
    blocks.check_integrity([request, other])


def test_without_caching_nothing_is_found_or_counted():
    """Fails if the switch is read in one place and not in another."""
    blocks = make_manager(caching=False)
    blocks.free(run_prompt(blocks, [1, 2, 3, 4]))
    assert num_shared(blocks, [1, 2, 3, 4, 5]) == 0
    assert (blocks.num_prefix_queries, blocks.num_prefix_hits) == (0, 0)


def leak(blocks: BlockManager, request: Request) -> list[Request]:
    request.block_table.pop()
    return [request]


def free_while_held(blocks: BlockManager, request: Request) -> list[Request]:
    table = list(request.block_table)
    blocks.free(request)
    request.block_table = table
    return [request]


def own_twice(blocks: BlockManager, request: Request) -> list[Request]:
    blocks.admit(request, Prefix([request.block_table[0]] * 2, [], 4))
    return [request]


def share_private_block(blocks: BlockManager, request: Request) -> list[Request]:
    other = make_request([9, 9, 9])
    blocks.admit(other, Prefix([request.block_table[2]], [], 2))
    return [request, other]


def hold_foreign_content(blocks: BlockManager, request: Request) -> list[Request]:
    request.block_hashes[0] = bytes(32)
    return [request]


@pytest.mark.parametrize(
    "damage", [leak, free_while_held, own_twice, share_private_block, hold_foreign_content]
)
def test_integrity_check_sees_damage(damage):
    """Fails if the check that all other tests lean on is blind in one eye."""
    blocks = make_manager()
    request = run_prompt(blocks, [1, 2, 3, 4, 5])
    blocks.check_integrity([request])
    holders = damage(blocks, request)
    with pytest.raises(AssertionError):
        blocks.check_integrity(holders)
