"""What long prompts cost the requests beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qoq.loadtest.metrics import Distribution
from qoq.loadtest.record import Outcome, Record


@dataclass(frozen=True, slots=True)
class Interference:
    """``itl_s``: gaps of the others' tokens that overlap the time from a long prompt's sending to
    its first piece of text, which is its ``ttft_s``.
    """

    num_finished: int
    num_sent: int
    ttft_s: Distribution
    itl_s: Distribution

    @classmethod
    def of(cls, long: Sequence[Record], others: Sequence[Record]) -> Interference:
        finished = [record for record in long if record.outcome is Outcome.FINISHED]
        spans = [(r.sent_s, r.events[0].time_s) for r in finished if r.events]
        return cls(
            num_finished=len(finished),
            num_sent=len(long),
            ttft_s=Distribution.of((end_s - start_s, 1) for start_s, end_s in spans),
            itl_s=Distribution.of(gap for record in others for gap in _gaps_in(record, spans)),
        )


def _gaps_in(record: Record, spans: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for before, event in pairwise(record.events):
        if any(start_s < event.time_s and before.time_s < end_s for start_s, end_s in spans):
            yield (event.time_s - before.time_s) / event.num_tokens, event.num_tokens
