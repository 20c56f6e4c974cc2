"""What counts as the same prefix, and what it costs to find out."""

from qoq.scheduler import prefix_cache
from qoq.scheduler.prefix_cache import PrefixCache, hash_block
from qoq.scheduler.request import Request, SamplingParams


def make_request(prompt: list[int], block_table: list[int] | None = None) -> Request:
    return Request(
        request_id=str(prompt),
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=8),
        block_table=block_table or [],
    )


def make_cache(prompt: list[int], block_table: list[int]) -> PrefixCache:
    """Blocks of 2 tokens, with the full blocks of one prompt in it."""
    cache = PrefixCache(block_size=2)
    cache.register(make_request(prompt, block_table), 0, len(prompt) // 2)
    return cache


def test_finds_the_longest_common_prefix_in_full_blocks():
    """Fails if matching stops early, or goes on past the first block that differs."""
    cache = make_cache([1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert cache.find(make_request([1, 2, 3, 4, 5, 6, 0])) == [7, 8, 9]
    assert cache.find(make_request([1, 2, 3, 4, 0, 6, 0])) == [7, 8]
    assert cache.find(make_request([1, 2, 3])) == [7]
    assert cache.find(make_request([0, 2, 3, 4, 5, 6, 0])) == []


def test_the_same_tokens_after_other_tokens_are_another_block():
    """Fails if a block is hashed without its parent: KV depends on everything before it."""
    cache = make_cache([1, 2, 3, 4], [7, 8])
    assert cache.find(make_request([9, 9, 3, 4, 0])) == []
    assert cache.find(make_request([3, 4, 0])) == []


def test_leaves_the_last_token_to_be_computed():
    """Fails if a whole prompt is served from the cache: no logits, nothing to sample."""
    cache = make_cache([1, 2, 3, 4], [7, 8])
    assert cache.find(make_request([1, 2, 3, 4])) == [7]
    assert cache.find(make_request([1, 2])) == []


def test_evicted_block_is_not_found_nor_what_follows_it():
    """Fails if stale content could still be handed out after its block was overwritten."""
    cache = make_cache([1, 2, 3, 4, 5, 6], [7, 8, 9])
    cache.evict(8)
    assert 8 not in cache
    assert cache.find(make_request([1, 2, 3, 4, 5, 6, 0])) == [7]
    cache.evict(8)  # a block without content is evicted too


def test_first_of_two_equal_blocks_stays():
    """Fails if a second copy replaces the first: evicting one would then hide or expose both."""
    cache = make_cache([1, 2], [7])
    cache.register(make_request([1, 2], [5]), 0, 1)
    assert 5 not in cache
    assert cache.find(make_request([1, 2, 0])) == [7]


def test_hashes_each_block_once(monkeypatch):
    """Fails if hashing starts over from the first block, which costs O(n^2) over a generation."""
    hashed = []

    def counting_hash(parent: bytes, token_ids: list[int]) -> bytes:
        hashed.append(token_ids)
        return hash_block(parent, token_ids)

    monkeypatch.setattr(prefix_cache, "hash_block", counting_hash)
    cache = PrefixCache(block_size=2)
    request = make_request([1, 2, 3], [0, 1, 2])
    cache.find(request)
    for token_id in (4, 5, 6, 7):
        request.output_token_ids.append(token_id)
        cache.register(request, 0, request.num_tokens // 2)
        cache.find(request)
    assert hashed == [[1, 2], [3, 4], [5, 6]]


def test_digest_depends_on_the_parent_each_token_and_their_order():
    """Fails if packing drops bytes of a token: 2**16 must not look like 0."""
    inputs = [(p, t) for p in (bytes(32), bytes(31) + b"\1") for t in ([0, 1], [1, 0], [2**16, 1])]
    assert len({hash_block(parent, token_ids) for parent, token_ids in inputs}) == len(inputs)
    assert len(hash_block(bytes(32), [0])) == 32
