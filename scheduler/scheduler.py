"""Which tokens run next: continuous batching of requests under a token budget and a block budget.

Host-only arithmetic. ``schedule`` says what a step runs, ``update`` takes what it sampled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from qoq.scheduler.batch import NO_TOKEN, Batch, BlockCopies, RequestOutput
from qoq.scheduler.block_manager import BlockManager
from qoq.scheduler.config import SchedulerConfig
from qoq.scheduler.limits import check_fits
from qoq.scheduler.request import FinishReason, Request, RequestStatus
from qoq.scheduler.request_queue import RequestQueue
from qoq.scheduler.stats import SchedulerStats
from qoq.scheduler.step import Step

# Steps for which the running requests shall find blocks after an admission. Without it the
# newcomer, being the newest, is preempted at the next block boundary and its prefill wasted:
# simulated with blocks of 64 tokens and a full cache, 8 steps bring recomputed tokens from
# 16-24 % of the necessary ones to 5-12 %, for at most 2.3 % more steps.
_RESERVED_STEPS = 8


class Scheduler:
    """Call ``schedule``, run the batch, call ``update`` with it; every batch in its order.

    ``schedule`` may be called again before ``update``: a sampled token that is still in flight is
    scheduled like a known one. It is then appended, or thrown away where the request has finished
    in the meantime.

    Progress: the device's blocks are held by running requests only, and only a request of lower
    rank gives up blocks for another. So the first of the running requests is never preempted, each
    step that it can use runs at least one of its tokens, and it finishes. With none running, all
    blocks are free and the first waiting request fits, which ``add`` has checked.
    """

    def __init__(
        self, config: SchedulerConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._clock = clock
        self._blocks = BlockManager(config)
        self._requests: dict[str, Request] = {}
        self._waiting = RequestQueue()
        self._running = RequestQueue()
        self._in_flight: deque[Step] = deque()
        self._dropped: list[str] = []
        self._outputs: list[RequestOutput] = []
        self._num_added = 0
        self._num_preemptions = 0

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a request is unfinished, a step not updated or an output not taken."""
        return bool(self._requests or self._in_flight or self._outputs)

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            kv_cache_usage=self._blocks.usage,
            num_preemptions=self._num_preemptions,
            prefix_cache_queries=self._blocks.num_prefix_queries,
            prefix_cache_hits=self._blocks.num_prefix_hits,
            num_blocks_swapped_out=self._blocks.num_swapped_out,
            num_blocks_swapped_in=self._blocks.num_swapped_in,
        )

    def add(self, request: Request) -> None:
        """Queue a request. Raises ValueError where it could never run, naming field and fix."""
        if request.request_id in self._requests:
            raise ValueError(f"request_id {request.request_id!r} is in use; choose another")
        check_fits(request, self._config)
        request.arrival_order = self._num_added
        self._num_added += 1
        self._requests[request.request_id] = request
        self._waiting.add(request)

    def abort(self, request_id: str) -> bool:
        """End a request wherever it is; its last output comes with the next ``update``.

        Returns False, and does nothing, where there is no such request or it has finished.
        """
        request = self._requests.get(request_id)
        if request is None:
            return False
        self._finish(request, FinishReason.ABORT, token_ids=[])
        return True

    def abort_all(self) -> None:
        """End every request after an error of the engine.

        Steps in flight are forgotten and must not be updated; cached prefixes are forgotten too,
        since the KV behind them may be damaged.
        """
        for request_id in list(self._requests):
            self.abort(request_id)
        self._in_flight.clear()
        self._blocks.clear_cache()

    def schedule(self) -> Batch:
        """Choose the next step. The batch is empty where nothing can run before an ``update``."""
        step = Step(budget=self._config.max_num_batched_tokens)
        self._schedule_running(step)
        self._schedule_waiting(step)
        return self._submit(step)

    def update(self, batch: Batch, token_ids: list[int]) -> list[RequestOutput]:
        """Take the sampled tokens, one for each item of the batch that ``samples``, in order.

        A request that has NO_TOKEN in the place of one is ended.

        Returns what became of the requests since the last call, aborted ones included.
        """
        if batch.scheduled:
            step = self._in_flight.popleft()
            assert step.batch is batch, "batches must be updated once, in the order of schedule()"
            assert len(token_ids) == batch.num_samples, "one token for each item that samples"
            self._complete(step, token_ids)
        return self.take_outputs()

    def take_outputs(self) -> list[RequestOutput]:
        """Outputs not returned yet: those of ``abort`` and ``abort_all``, if called alone."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def check_integrity(self) -> None:
        """Raises AssertionError where blocks, queues and requests contradict each other."""
        running, waiting = list(self._running), list(self._waiting)
        self._blocks.check_integrity(running + waiting)
        assert {id(r) for r in running + waiting} == {id(r) for r in self._requests.values()}
        assert len(running) + len(waiting) == len(self._requests)
        for request in running:
            assert request.status is RequestStatus.RUNNING
            num_blocks = self._blocks.blocks_for(request.num_computed_tokens)
            assert len(request.block_table) == num_blocks
            assert not request.host_table
        for request in waiting:
            assert request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
            assert not request.block_table and request.num_computed_tokens == 0
            num_blocks = self._blocks.blocks_for(request.num_saved_tokens)
            assert len(request.host_table) == num_blocks

    def _schedule_running(self, step: Step) -> None:
        for request in list(self._running):
            num_tokens = self._num_tokens(request, step.budget)
            is_running = request.status is RequestStatus.RUNNING
            if num_tokens and is_running and self._make_room(request, num_tokens):
                step.add(request, num_tokens, self._blocks.allocate(request, num_tokens))

    def _num_tokens(self, request: Request, budget: int) -> int:
        num_tokens = min(request.num_schedulable_tokens, budget)
        if not self._config.separates_output:
            return num_tokens
        num_prompt_left = len(request.prompt_token_ids) - request.num_computed_tokens
        return min(num_tokens, num_prompt_left if num_prompt_left > 0 else 1)

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Preempt the last in rank until the tokens fit; False where that was the request."""
        while not self._blocks.can_allocate(request, num_tokens):
            victim = self._running.last
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _schedule_waiting(self, step: Step) -> None:
        while step.budget and self._waiting and self.num_running < self._config.max_num_seqs:
            request = self._waiting.first
            if not self._admit(request):
                break
            num_tokens = self._num_tokens(request, step.budget)
            self._blocks.allocate(request, num_tokens)
            step.add_new(request, num_tokens)

    def _admit(self, request: Request) -> bool:
        """Give the request its saved or cached prefix and let it run, if all known tokens fit.

        False leaves it first in the queue, and nobody passes it. So does a token in flight, which
        must be known before the runner can be told all tokens.
        """
        if request.num_in_flight:
            return False
        prefix = self._blocks.find_prefix(request)
        num_reserved = self._blocks.blocks_for(_RESERVED_STEPS * self.num_running)
        if not self._blocks.can_admit(request, prefix, num_reserved):
            return False
        self._blocks.admit(request, prefix)
        self._register(request, 0, request.num_computed_tokens)
        self._waiting.remove(request)
        self._running.add(request)
        request.status = RequestStatus.RUNNING
        if request.scheduled_s is None:
            request.scheduled_s = self._clock()
            request.num_cached_tokens = request.num_computed_tokens
        return True

    def _submit(self, step: Step) -> Batch:
        if not step.entries:
            return step.seal([], BlockCopies(), BlockCopies())
        self._in_flight.append(step)
        dropped, self._dropped = self._dropped, []
        return step.seal(dropped, *self._blocks.take_copies())

    def _complete(self, step: Step, token_ids: list[int]) -> None:
        sampled = iter(token_ids)
        for entry in step.entries:
            token_id = next(sampled) if entry.scheduled.samples else None
            if entry.request.is_finished:
                continue
            if token_id == NO_TOKEN:
                self._finish(entry.request, FinishReason.ABORT, token_ids=[])
                continue
            if token_id is not None:
                entry.request.output_token_ids.append(token_id)
                entry.request.num_in_flight -= 1
            if entry.holds_blocks:
                item = entry.scheduled
                self._register(entry.request, item.num_computed_tokens, item.end)
            if token_id is not None:
                self._answer(entry.request, token_id)

    def _register(self, request: Request, start: int, end: int) -> None:
        if self._config.separates_output:
            end = min(end, len(request.prompt_token_ids))
        if start < end:
            self._blocks.register(request, start, end)

    def _answer(self, request: Request, token_id: int) -> None:
        sampling = request.sampling
        if token_id in sampling.stop_token_ids:
            self._finish(request, FinishReason.STOP, [token_id])
        elif len(request.output_token_ids) == sampling.max_tokens:
            self._finish(request, FinishReason.LENGTH, [token_id])
        else:
            self._output(request, [token_id])

    def _preempt(self, request: Request) -> None:
        self._blocks.save(request)
        self._leave_running(request)
        request.status = RequestStatus.PREEMPTED
        request.num_preemptions += 1
        self._num_preemptions += 1
        self._waiting.add(request)

    def _finish(self, request: Request, reason: FinishReason, token_ids: list[int]) -> None:
        if request.status is RequestStatus.RUNNING:
            self._leave_running(request)
        else:
            self._waiting.remove(request)
            self._blocks.forget_saved(request)
        request.status = RequestStatus.FINISHED
        request.finish_reason = reason
        del self._requests[request.request_id]
        self._output(request, token_ids)

    def _leave_running(self, request: Request) -> None:
        self._running.remove(request)
        self._blocks.free(request)
        self._dropped.append(request.request_id)

    def _output(self, request: Request, token_ids: list[int]) -> None:
        self._outputs.append(
            RequestOutput(
                request_id=request.request_id,
                token_ids=token_ids,
                finish_reason=request.finish_reason,
                scheduled_s=request.scheduled_s,
                num_cached_tokens=request.num_cached_tokens,
            )
        )
