"""What a client saw of one request: times on one monotonic clock, counts, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    FINISHED = "finished"
    LEFT = "left early"
    FAILED = "failed"
    UNSENT = "not sent"


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One piece of the stream that carried text. ``num_tokens`` is a mean where it has to be."""

    time_s: float
    num_tokens: float


@dataclass(slots=True, kw_only=True)
class Record:
    """``due_s``: when it should have been sent; ``sent_s``: when it was."""

    index: int
    outcome: Outcome = Outcome.UNSENT
    due_s: float = 0.0
    sent_s: float = 0.0
    ended_s: float = 0.0
    events: list[TokenEvent] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def ttft_s(self) -> float | None:
        return self.events[0].time_s - self.sent_s if self.events else None

    @property
    def tpot_s(self) -> float | None:
        if not self.events or self.output_tokens < 2:
            return None
        return (self.events[-1].time_s - self.events[0].time_s) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        return self.ended_s - self.sent_s


def token_events(times_s: list[float], totals: list[int | None], total: int) -> list[TokenEvent]:
    """Say how many tokens each event carried.

    ``totals[i]`` is the server's count of output tokens up to event ``i``, where it gave one with
    the event; then the counts are exact. Otherwise only the ``total`` at the end is known: the
    first event is taken to carry one token, and the later ones share the rest evenly.
    """
    known = [count for count in totals if count is not None]
    if len(known) == len(times_s):
        carried = [after - before for before, after in zip([0, *known], known, strict=False)]
        return [TokenEvent(t, k) for t, k in zip(times_s, carried, strict=True) if k > 0]
    if len(times_s) < 2:
        return [TokenEvent(time, total) for time in times_s]
    share = max(1, total - 1) / (len(times_s) - 1)
    return [TokenEvent(time, share if i else 1.0) for i, time in enumerate(times_s)]
