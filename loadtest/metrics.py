"""From records to figures. The definitions are data, because every report prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qoq.loadtest.record import Outcome, Record

DEFINITIONS = {
    "TTFT": "time from sending a request, connecting included, to its first piece of text",
    "ITL": "the gap before each later token, over all tokens; an event that carries k tokens counts"
    " as k gaps of 1/k of it (k as the server counts along, else its final count shared evenly)",
    "TPOT": "for each request (t_last - t_first) / (n_out - 1)",
    "e2e": "time from sending a request to the end of its stream",
    "throughput": "output tokens received, by whomever, over the time from the first request sent"
    " to the last stream ended",
    "goodput": "the same for the tokens of finished requests that met the targets",
    "decode": "tokens after the last request's first piece of text, over the time they took; told"
    " where each request was still being answered then",
    "pXX": "nearest rank: the smallest value that XX % of the values do not exceed",
}


@dataclass(frozen=True, slots=True)
class Targets:
    """What a request must keep for its tokens to count as goodput; infinite asks for nothing."""

    ttft_s: float
    tpot_s: float

    def are_met_by(self, record: Record) -> bool:
        ttft_s, tpot_s = record.ttft_s, record.tpot_s
        if record.outcome is not Outcome.FINISHED or ttft_s is None:
            return False
        return ttft_s <= self.ttft_s and (tpot_s is None or tpot_s <= self.tpot_s)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of values with weights; ``count`` is the sum of the weights. Empty: all zero."""

    count: float = 0.0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, weighted: Iterable[tuple[float, float]]) -> Distribution:
        pairs = sorted(weighted)
        count = sum(weight for _, weight in pairs)
        if count == 0:
            return cls()
        mean = sum(value * weight for value, weight in pairs) / count
        p50, p90, p99 = (_quantile(pairs, share * count) for share in (0.5, 0.9, 0.99))
        return cls(count, mean, p50, p90, p99, pairs[-1][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Latencies are those of finished requests; counts and throughput are of all."""

    num_requests: int
    num_by_outcome: dict[str, int]
    errors: dict[str, int]
    duration_s: float
    max_lag_s: float
    prompt_tokens: int
    output_tokens: int
    throughput: float
    decode: float | None
    goodput: float
    ttft_s: Distribution
    itl_s: Distribution
    tpot_s: Distribution
    e2e_s: Distribution


def measure(records: Sequence[Record], targets: Targets) -> Metrics:
    sent = [record for record in records if record.outcome is not Outcome.UNSENT]
    finished = [record for record in sent if record.outcome is Outcome.FINISHED]
    duration_s = _duration_s(sent)
    outcomes = Counter(record.outcome for record in records)
    return Metrics(
        num_requests=len(records),
        num_by_outcome={outcome.value: outcomes[outcome] for outcome in Outcome},
        errors=dict(Counter(record.error for record in records if record.error).most_common()),
        duration_s=duration_s,
        max_lag_s=max((record.sent_s - record.due_s for record in sent), default=0.0),
        prompt_tokens=sum(record.prompt_tokens for record in sent),
        output_tokens=sum(record.output_tokens for record in sent),
        throughput=_rate(sent, duration_s),
        decode=_decode_rate(sent),
        goodput=_rate(filter(targets.are_met_by, sent), duration_s),
        ttft_s=Distribution.of((r.ttft_s, 1) for r in finished if r.ttft_s is not None),
        itl_s=Distribution.of(gap for record in finished for gap in gaps(record)),
        tpot_s=Distribution.of((r.tpot_s, 1) for r in finished if r.tpot_s is not None),
        e2e_s=Distribution.of((r.e2e_s, 1) for r in finished),
    )


def gaps(record: Record) -> Iterator[tuple[float, float]]:
    """Inter-token gaps with their weights. What the first event carries has only TTFT before it."""
    for before, event in pairwise(record.events):
        yield (event.time_s - before.time_s) / event.num_tokens, event.num_tokens


def _duration_s(sent: Sequence[Record]) -> float:
    if not sent:
        return 0.0
    return max(record.ended_s for record in sent) - min(record.sent_s for record in sent)


def _rate(records: Iterable[Record], duration_s: float) -> float:
    tokens = sum(record.output_tokens for record in records)
    return tokens / duration_s if duration_s > 0 else 0.0


def _decode_rate(sent: Sequence[Record]) -> float | None:
    streams = [record.events for record in sent if len(record.events) > 1]
    if len(streams) < len(sent) or not streams:
        return None
    start_s = max(events[0].time_s for events in streams)
    if any(events[-1].time_s <= start_s for events in streams):
        return None
    later = [event for events in streams for event in events if event.time_s > start_s]
    end_s = max(event.time_s for event in later)
    return sum(event.num_tokens for event in later) / (end_s - start_s)


def _quantile(pairs: Sequence[tuple[float, float]], rank: float) -> float:
    passed = 0.0
    for value, weight in pairs:
        passed += weight
        if passed >= rank * (1 - 1e-12):  # weights may be fractions; their sum is rounded
            return value
    return pairs[-1][0]
