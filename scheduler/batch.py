"""What crosses between scheduler and model runner in one step: down a batch, up token ids.

A batch holds differences only. The runner keeps each request's tokens and block table and
extends them; a request that is new, or resumed after a preemption, comes with its whole state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qoq.scheduler.request import FinishReason, SamplingParams

# In the place of a sampled token: the request cannot go on.
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class NewRequest:
    """State that the runner does not have yet: all known tokens, and how to sample."""

    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """``num_scheduled_tokens`` tokens of one request, from position ``num_computed_tokens`` on.

    ``samples`` says that the last of them is the request's newest token, so that the step yields
    one new token. ``new_block_ids`` extend the block table (or are all of it where ``new`` is
    set, which replaces whatever the runner kept).

    With a step in flight the last token may be one that only the device knows: the runner then
    takes the id that its previous step sampled for the request.
    """

    request_id: str
    num_computed_tokens: int
    num_scheduled_tokens: int
    samples: bool
    new_block_ids: list[int]
    new: NewRequest | None = None

    @property
    def end(self) -> int:
        """One past the position of the last scheduled token."""
        return self.num_computed_tokens + self.num_scheduled_tokens


@dataclass(frozen=True, slots=True)
class BlockCopies:
    """The content of block ``sources[i]`` goes to block ``targets[i]``; no target comes twice."""

    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. ``dropped`` names requests whose state the runner may forget first.

    An id may be both in ``dropped`` and ``new`` in ``scheduled``: used again by a client, or
    preempted and resumed at once, because others hold blocks now that it can share. A batch that
    schedules nothing drops nothing either and need not be run.

    ``swap_out`` copies blocks of the device to host blocks, then ``swap_in`` copies host blocks to
    the device, then the step runs.
    """

    scheduled: list[ScheduledRequest]
    dropped: list[str]
    swap_out: BlockCopies = field(default_factory=BlockCopies)
    swap_in: BlockCopies = field(default_factory=BlockCopies)

    @property
    def num_tokens(self) -> int:
        return sum(item.num_scheduled_tokens for item in self.scheduled)

    @property
    def num_samples(self) -> int:
        return sum(item.samples for item in self.scheduled)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities at one position: of its token, and of the likeliest ``top_ids``.

    ``rank`` counts from 1, the likeliest. They are the model's own: of the logits before
    penalties, bias, masks and temperature.
    """

    token_id: int
    logprob: float
    rank: int
    top_ids: list[int]
    top_logprobs: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a request asked for beside its tokens; a field that was not asked for is None.

    ``prompt_logprobs`` (of every prompt token but the first) and the ``embedding`` come with the
    first token.
    """

    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    embedding: list[float] | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one step did for one request: at most one token, and the end if it ended.

    ``scheduled_s`` is when the request first ran (the engine's monotonic clock, seconds; None
    where it never did); ``num_cached_tokens`` is how much of the prompt the prefix cache spared.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    scheduled_s: float | None
    num_cached_tokens: int
    extras: Extras | None = None
