"""Sends every job at its time and gathers what came. Ends by itself, at the limit if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from qoq.loadtest.arrivals import Arrivals
from qoq.loadtest.client import Received
from qoq.loadtest.workload import Job

Send = Callable[[Job], Awaitable[Received]]


async def drive(
    send: Send, jobs: Sequence[Job], arrivals: Arrivals, limit_s: float
) -> list[Received]:
    """After ``limit_s`` nothing more is sent; what is under way ends or meets its own timeout."""
    gate = asyncio.Semaphore(arrivals.max_in_flight or max(1, len(jobs)))
    start_s = time.monotonic()  # the event loop's own clock

    async def one(job: Job, due_s: float) -> Received:
        try:
            async with asyncio.timeout_at(start_s + limit_s):
                await asyncio.sleep(due_s - time.monotonic())
                await gate.acquire()
        except TimeoutError:
            return Received(job=job, error=f"the run's limit of {limit_s:g} s came first")
        try:
            received = await send(job)
        finally:
            gate.release()
        received.due_s = (received.sent_s or 0.0) if arrivals.max_in_flight else due_s
        return received

    return await asyncio.gather(
        *(
            one(job, start_s + offset_s)
            for job, offset_s in zip(jobs, arrivals.offsets_s, strict=True)
        )
    )
