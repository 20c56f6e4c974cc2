"""A step remembers which requests it runs, and whether they still hold what it writes."""

from qoq.scheduler.batch import BlockCopies
from qoq.scheduler.request import Request, RequestStatus, SamplingParams
from qoq.scheduler.step import Step


def make_request() -> Request:
    return Request(
        request_id="a",
        prompt_token_ids=[1, 2, 3],
        sampling=SamplingParams(max_tokens=2),
        block_table=[5, 6],
    )


def test_adding_tokens_moves_the_request_on():
    """Fails if a chunk samples too early, or if the next chunk would start at the wrong token."""
    request, step = make_request(), Step(budget=8)
    step.add_new(request, 2)
    step.add(request, 1, [6])
    step.add(request, 1, [])
    items = step.seal([], BlockCopies(), BlockCopies()).scheduled
    assert [(item.num_computed_tokens, item.end) for item in items] == [(0, 2), (2, 3), (3, 4)]
    assert [item.samples for item in items] == [False, True, True]
    assert (request.num_in_flight, request.num_schedulable_tokens, step.budget) == (2, 0, 4)


def test_a_batch_does_not_change_with_its_requests():
    """Fails if lists are shared with the scheduler: the runner reads them in another thread."""
    request, step = make_request(), Step(budget=8)
    step.add_new(request, 3)
    item = step.seal([], BlockCopies(), BlockCopies()).scheduled[0]
    request.block_table.append(7)
    request.prompt_token_ids.append(4)
    assert item.new is not None
    assert (item.new_block_ids, item.new.token_ids) == ([5, 6], [1, 2, 3])


def test_blocks_of_a_step_are_gone_with_the_preemption_even_after_a_resumption():
    """Fails if new blocks of a resumed request could be taken for those that an old step wrote."""
    request, step = make_request(), Step(budget=8)
    step.add_new(request, 3)
    entry = step.entries[0]
    assert entry.holds_blocks
    request.num_preemptions += 1
    assert not entry.holds_blocks
    request.num_preemptions -= 1
    request.status = RequestStatus.FINISHED
    assert not entry.holds_blocks
