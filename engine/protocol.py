"""The seam that the server sees: what goes down to the engine, what comes up. No torch.

The same structures cross the process boundary (msgspec) and are handed around inside it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from qoq.scheduler.batch import Extras, TokenLogprobs
from qoq.scheduler.request import FinishReason, Pooling, SamplingParams
from qoq.scheduler.stats import SchedulerStats as EngineStats

__all__ = [
    "EngineClient",
    "EngineDeadError",
    "EngineHealth",
    "EngineInfo",
    "EngineStats",
    "Extras",
    "FinishReason",
    "GenerateRequest",
    "Pooling",
    "SamplingParams",
    "TokenLogprobs",
    "TokenOutput",
]


class EngineDeadError(RuntimeError):
    """The engine process failed or stalled; the message says why and what happens next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One sequence to generate. Lower ``priority`` runs first; ``arrival_s`` is monotonic time."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    priority: int = 0
    arrival_s: float = 0.0
    cache_salt: str | None = None


@dataclass(slots=True, kw_only=True)
class TokenOutput:
    """New tokens of one request. A slow reader gets several steps merged into one.

    ``time_s`` is when the newest token was made and ``scheduled_s`` when the request first ran,
    both on the machine's monotonic clock. The last output, and only the last, has a
    ``finish_reason``; it may carry no token.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    time_s: float = 0.0
    scheduled_s: float | None = None
    num_cached_tokens: int = 0
    extras: Extras | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Facts about the loaded model that the server needs to validate a request, or tells.

    A KV block takes ``block_bytes`` over all layers. ``start_s`` are the seconds that each phase of
    loading took, by name, in order.
    """

    model: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    num_blocks: int
    block_size: int
    precision: str
    device: str
    num_host_blocks: int = 0
    block_bytes: int = 0
    start_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """``is_ready``: loaded and taking requests. ``cause`` says what is wrong where it is not."""

    is_ready: bool
    is_healthy: bool
    cause: str | None = None


class EngineClient(Protocol):
    """What the server may ask of an engine, wherever that engine runs."""

    @property
    def info(self) -> EngineInfo: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield outputs until one has a finish reason. Closing the generator early aborts.

        Raises EngineDeadError when the engine fails while the request waits or runs, ValueError
        where it refuses the request.
        """
        ...

    async def abort(self, request_id: str) -> None: ...

    def health(self) -> EngineHealth: ...

    def stats(self) -> EngineStats: ...
