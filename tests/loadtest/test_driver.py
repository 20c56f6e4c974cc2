"""When jobs are sent, how many at a time, and that a run ends."""

import asyncio
import time

from qoq.loadtest.arrivals import Arrivals, all_at_once, closed_loop
from qoq.loadtest.client import Received
from qoq.loadtest.driver import drive
from qoq.loadtest.record import Outcome
from qoq.loadtest.workload import Job


class Sender:
    """Takes its time over each job and notes how many it had at once."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.num_open = self.max_open = 0

    async def __call__(self, job: Job) -> Received:
        sent_s = time.monotonic()
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        await asyncio.sleep(self.takes_s)
        self.num_open -= 1
        return Received(job=job, sent_s=sent_s)


def make_jobs(num: int) -> list[Job]:
    return [Job(index=index, prompt="a", output_len=1) for index in range(num)]


async def test_a_closed_loop_never_exceeds_its_clients() -> None:
    sender = Sender(takes_s=0.01)
    records = await drive(sender, make_jobs(12), closed_loop(12, 3), limit_s=60)
    assert sender.max_open == 3
    assert [record.job.index for record in records] == list(range(12))
    assert all(record.due_s == record.sent_s for record in records), "no answer, no next request"


async def test_all_at_once_is_all_at_once() -> None:
    sender = Sender(takes_s=0.5)
    await drive(sender, make_jobs(20), all_at_once(20), limit_s=60)
    assert sender.max_open == 20


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    sender = Sender(takes_s=0.5)
    records = await drive(sender, make_jobs(3), Arrivals([0.0, 0.05, 0.1]), limit_s=60)
    sent_s = [(record.sent_s or 0.0) - records[0].due_s for record in records]
    assert sender.max_open == 3
    assert all(sent_s[i] >= 0.05 * i - 0.001 for i in range(3))


async def test_nothing_is_sent_after_the_limit() -> None:
    """Neither what is due later nor what waits for a client to become free."""
    late = await drive(Sender(0.0), make_jobs(2), Arrivals([0.0, 60.0]), limit_s=0.1)
    queued = await drive(Sender(0.3), make_jobs(3), closed_loop(3, 1), limit_s=0.1)
    assert [one.sent_s is None for one in late] == [False, True]
    assert [one.sent_s is None for one in queued] == [False, True, True]
    assert queued[1].read().outcome is Outcome.UNSENT
    assert queued[1].error == "the run's limit of 0.1 s came first"
