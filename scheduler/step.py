"""A batch in the making, then in flight, with the requests themselves beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

from qoq.scheduler.batch import Batch, BlockCopies, NewRequest, ScheduledRequest
from qoq.scheduler.request import Request


@dataclass(frozen=True, slots=True)
class StepEntry:
    """One request in a step. Bound to the object: an id may have been used again by ``update``."""

    request: Request
    scheduled: ScheduledRequest
    num_preemptions: int

    @property
    def holds_blocks(self) -> bool:
        """Whether the request still has the blocks that this step wrote."""
        return not self.request.is_finished and (
            self.request.num_preemptions == self.num_preemptions
        )


@dataclass(slots=True)
class Step:
    """``budget`` is how many tokens may still be added."""

    budget: int
    entries: list[StepEntry] = field(default_factory=list)
    batch: Batch | None = None

    def add(self, request: Request, num_tokens: int, added_block_ids: list[int]) -> None:
        """Schedule tokens of a request that the runner knows."""
        self._add(request, num_tokens, added_block_ids, None)

    def add_new(self, request: Request, num_tokens: int) -> None:
        """Schedule tokens of a request that the runner does not know, or has dropped."""
        new = NewRequest(request.token_ids, len(request.prompt_token_ids), request.sampling)
        self._add(request, num_tokens, list(request.block_table), new)

    def _add(
        self, request: Request, num_tokens: int, block_ids: list[int], new: NewRequest | None
    ) -> None:
        scheduled = ScheduledRequest(
            request_id=request.request_id,
            num_computed_tokens=request.num_computed_tokens,
            num_scheduled_tokens=num_tokens,
            samples=num_tokens == request.num_schedulable_tokens,
            new_block_ids=block_ids,
            new=new,
        )
        request.num_computed_tokens += num_tokens
        request.num_in_flight += scheduled.samples
        self.entries.append(StepEntry(request, scheduled, request.num_preemptions))
        self.budget -= num_tokens

    def seal(self, dropped: list[str], swap_out: BlockCopies, swap_in: BlockCopies) -> Batch:
        scheduled = [entry.scheduled for entry in self.entries]
        self.batch = Batch(scheduled, dropped, swap_out, swap_in)
        return self.batch
