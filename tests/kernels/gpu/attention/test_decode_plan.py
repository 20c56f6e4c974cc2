"""How a decode step is divided: every token once, whole partitions, long contexts first."""

import pytest
import torch

from qoq.kernels.gpu.attention.decode_plan import GROUP, PARTITION, TILE, DecodePlan

SPAN = PARTITION * GROUP


def make(max_items: int = 64, max_requests: int = 8, max_context: int = 20000) -> DecodePlan:
    return DecodePlan.allocate(
        max_requests,
        max_items,
        max_context,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        device=torch.device("cpu"),
    )


def ranges(plan: DecodePlan, request: int) -> list[tuple[int, int]]:
    """First and last tiles of a request's items, in the order in which they merge."""
    first, count, _, _ = plan.requests[request].tolist()
    items = plan.items[first : first + count].tolist()
    assert all(item[0] == request for item in items)
    return [(item[1], item[2]) for item in items]


@pytest.mark.parametrize("prefix", [None, 1, 3, 8])
@pytest.mark.parametrize("window", [None, 700])
def test_items_cover_each_context_once_and_in_order(prefix: int | None, window: int | None) -> None:
    lengths = [1, 0, 64, 65, 256, 257, 2049, 9000]
    plan = make()
    plan.set(lengths, window, prefix)
    for request, length in enumerate(lengths):
        start = 0 if window is None else max(0, length - window)
        tiles = [tile for pair in ranges(plan, request) for tile in range(*pair)]
        assert tiles == list(range(start // TILE, -(-length // TILE)))
    assert int(plan.count) == sum(len(ranges(plan, r)) for r in range(len(lengths)))


@pytest.mark.parametrize("window", [None, 700, 3700])
def test_partitions_begin_where_contexts_do(window: int | None) -> None:
    """However late a window starts: its place in partition and group is that in the context."""
    plan = make()
    plan.set([5000], window, 1)
    start = 0 if window is None else 5000 - window
    assert [first * TILE for first, _ in ranges(plan, 0)][1:] == list(
        range((start // PARTITION + 1) * PARTITION, 5000, PARTITION)
    )
    _, _, place, per_group = plan.requests[0].tolist()
    assert (place, per_group) == (start // PARTITION % GROUP, GROUP)


def test_what_follows_a_prefix_is_single() -> None:
    """A prefix of six partitions leaves two single ones in a full group of eight."""
    plan = make()
    plan.set([12 * PARTITION], None, 6)
    assert ranges(plan, 0) == [(0, 24), (24, 28), (28, 32), (32, 48)]
    plan.set([12 * PARTITION], 1700, 6)
    assert ranges(plan, 0) == [(21, 24), (24, 28), (28, 32), (32, 48)]
    plan.set([12 * PARTITION], 1000, 2)
    assert ranges(plan, 0) == [(32, 40), (40, 44), (44, 48)], "a group begins where it did"


@pytest.mark.parametrize(
    ("batch", "length", "prefix"), [(1, 32768, 1), (16, 1280, 1), (64, 1280, 4), (256, 1280, 8)]
)
def test_the_longest_prefix_that_is_enough(batch: int, length: int, prefix: int) -> None:
    """Items by 8 kv heads are 1024 programs, or as many as there are partitions."""
    plan = DecodePlan.allocate(
        256, 2048, 32768, num_heads=8, num_kv_heads=8, head_dim=1, device=torch.device("cpu")
    )
    items, requests = plan.divide([length] * batch)
    assert GROUP + 1 - int(requests[0, 3]) == prefix
    assert int(items[0, 2]) == min(prefix * PARTITION, length) // TILE


def test_long_contexts_come_first() -> None:
    plan = make()
    plan.set([100, 5000, 300], None, 8)
    assert plan.items[: int(plan.count), 0].tolist() == [1, 1, 1, 2, 0]


def test_small_batches_are_cut_finer_where_there_is_room() -> None:
    plan = make(max_items=8)
    plan.set([SPAN], None, 1)
    assert int(plan.count) == GROUP
    plan.set([SPAN + 1], None, 1)
    assert int(plan.count) == 8, "nine partitions do not fit"
    plan.set([SPAN] * 8)
    assert int(plan.count) == 8, "an item for each"


def test_a_step_leaves_nothing_of_the_one_before() -> None:
    plan = make()
    plan.set([5000, 5000])
    plan.set([1])
    assert int(plan.count) == 1
    assert plan.requests[1:, 1].eq(0).all()
    plan.set([])
    assert int(plan.count) == 0 and not plan.requests.any()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1] * 9, "9 requests, the plan has room for 8"),
        ([20001], "expected 0 to 20000, got 20001"),
        ([-1], "expected 0 to 20000, got -1"),
        ([20000] * 8, "80 items, the plan has room for 64"),
    ],
)
def test_refuses_what_has_no_room(lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().set(lengths)
