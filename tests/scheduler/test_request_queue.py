"""Ranks decide the order in the queue, wherever requests come from and leave to."""

import random

from qoq.scheduler.request import Request, SamplingParams
from qoq.scheduler.request_queue import RequestQueue


def make_request(priority: int = 0, arrival_s: float = 0.0, arrival_order: int = 0) -> Request:
    return Request(
        request_id=f"{priority}/{arrival_s}/{arrival_order}",
        prompt_token_ids=[1],
        sampling=SamplingParams(max_tokens=1),
        priority=priority,
        arrival_s=arrival_s,
        arrival_order=arrival_order,
    )


def test_orders_by_priority_then_arrival_time_then_order_of_adding():
    """Fails if one of the three is left out of the rank or compared the wrong way round."""
    in_order = [
        make_request(-1, 9.0, 4),
        make_request(0, 1.0, 3),
        make_request(0, 2.0, 1),
        make_request(0, 2.0, 2),
        make_request(1, 0.0, 0),
    ]
    queue = RequestQueue()
    for index in (3, 0, 4, 2, 1):
        queue.add(in_order[index])
    assert list(queue) == in_order
    assert (queue.first, queue.last, len(queue)) == (in_order[0], in_order[-1], 5)


def test_removes_exactly_the_given_request():
    """Fails if removal goes by anything that two requests can share, or disturbs the order."""
    requests = [make_request(order % 3, order % 2, order) for order in range(60)]
    queue = RequestQueue()
    for request in requests:
        queue.add(request)
    random.Random(0).shuffle(requests)
    for number, request in enumerate(requests, start=1):
        queue.remove(request)
        assert request not in list(queue)
        assert list(queue) == sorted(requests[number:], key=lambda r: r.rank)
