"""Sends every job at its time and gathers the records. Ends by itself, at the limit if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from qoq.loadtest.arrivals import Arrivals
from qoq.loadtest.record import Record
from qoq.loadtest.workload import Job

Send = Callable[[Job], Awaitable[Record]]


async def drive(
    send: Send, jobs: Sequence[Job], arrivals: Arrivals, limit_s: float
) -> list[Record]:
    """After ``limit_s`` nothing more is sent; what is under way ends or meets its own timeout."""
    gate = asyncio.Semaphore(arrivals.max_in_flight or max(1, len(jobs)))
    start_s = time.monotonic()  # the event loop's own clock

    async def one(job: Job, due_s: float) -> Record:
        try:
            async with asyncio.timeout_at(start_s + limit_s):
                await asyncio.sleep(due_s - time.monotonic())
                await gate.acquire()
        except TimeoutError:
            return Record(index=job.index, error=f"the run's limit of {limit_s:g} s came first")
        try:
            record = await send(job)
        finally:
            gate.release()
        record.due_s = record.sent_s if arrivals.max_in_flight else due_s
        return record

    return await asyncio.gather(
        *(
            one(job, start_s + offset_s)
            for job, offset_s in zip(jobs, arrivals.offsets_s, strict=True)
        )
    )
