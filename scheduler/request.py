"""A request: its prompt, how to sample, and where it stands. Pure data and derived values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum


class FinishReason(StrEnum):
    """Why a request ended. The values are OpenAI's, plus ``abort``."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class Pooling(StrEnum):
    """How the hidden states of a prompt become one vector."""

    MEAN = "mean"
    LAST = "last"


class RequestStatus(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop, already validated by the server.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 switch a filter off.
    ``seed`` and the position of a token alone decide its random number. ``stop_token_ids``
    holds the end-of-sequence ids too, unless the client asked to ignore them; none of them is
    sampled among the first ``min_tokens``. ``logit_bias`` holds (token id, what is added).
    ``allowed_token_ids`` None allows all; each of ``bad_token_ids`` is a run of tokens that shall
    not be completed. ``logprobs`` and ``prompt_logprobs`` ask for the log-probability of each
    token and of so many likeliest ones beside it; None asks for nothing.
    The output follows ``grammar``, where there is one (see ``qoq.engine.grammar``).
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_token_ids: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    pooling: Pooling | None = None
    grammar: str | None = None

    @property
    def needs_whole_prompt(self) -> bool:
        """Whether what is asked for comes from every prompt token's hidden state."""
        return self.prompt_logprobs is not None or self.pooling is not None


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One unit of work. Made once, then changed by the scheduler alone.

    ``num_computed_tokens`` counts tokens whose KV is in the cache or will be once the steps in
    flight are done. ``num_in_flight`` counts sampled tokens that are not known on the host yet.
    ``block_hashes`` chains over the full blocks of the known tokens, as far as it was needed.
    ``num_cached_tokens`` is what the prefix cache spared of the prompt at the first admission.
    While a preempted request waits, ``host_table`` names the blocks in host memory that hold its
    first ``num_saved_tokens``.
    ``cache_salt`` keeps requests apart: only those of an equal one share cached blocks.
    ``arrival_order`` is given by the scheduler and decides between equal arrival times.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    priority: int = 0
    arrival_s: float = 0.0
    cache_salt: str | None = None

    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    output_token_ids: list[int] = field(default_factory=list)
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    host_table: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_saved_tokens: int = 0
    num_in_flight: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    arrival_order: int = 0
    scheduled_s: float | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens known on the host: prompt and output."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def token_ids(self) -> list[int]:
        return self.prompt_token_ids + self.output_token_ids

    def slice_token_ids(self, start: int, stop: int) -> list[int]:
        """``token_ids[start:stop]`` without joining the whole lists first."""
        num_prompt = len(self.prompt_token_ids)
        output = self.output_token_ids[max(start - num_prompt, 0) : max(stop - num_prompt, 0)]
        return self.prompt_token_ids[start:stop] + output

    @property
    def rank(self) -> tuple[int, float, int]:
        """Place among all requests: the smallest runs first and is preempted last."""
        return (self.priority, self.arrival_s, self.arrival_order)

    @property
    def num_schedulable_tokens(self) -> int:
        """Tokens without KV, the one in flight included; 0 once that one will be the last."""
        if len(self.output_token_ids) + self.num_in_flight >= self.sampling.max_tokens:
            return 0
        return self.num_tokens + self.num_in_flight - self.num_computed_tokens

    @property
    def can_resume_midway(self) -> bool:
        """Whether a resumption may go on where the KV ends: the prompt gave all that was asked."""
        has_sampled = bool(self.output_token_ids or self.num_in_flight)
        return has_sampled or not self.sampling.needs_whole_prompt

    @property
    def is_finished(self) -> bool:
        return self.status is RequestStatus.FINISHED
