"""Each definition, against timelines that were worked out by hand."""

import math

import pytest

from qoq.loadtest.metrics import Distribution, Targets, gaps, measure
from qoq.loadtest.record import Outcome, Record, TokenEvent

ANY = Targets(math.inf, math.inf)


def make_record(index: int = 0, outcome: Outcome = Outcome.FINISHED) -> Record:
    """Sent at 10.0; a token at 10.5, two in one event at 10.7, one at 11.1; ends at 11.2."""
    return Record(
        index=index,
        outcome=outcome,
        due_s=9.75,
        sent_s=10.0,
        ended_s=11.2,
        events=[TokenEvent(10.5, 1), TokenEvent(10.7, 2), TokenEvent(11.1, 1)],
        prompt_tokens=7,
        output_tokens=4,
    )


def test_the_four_latencies_of_one_request() -> None:
    metrics = measure([make_record()], ANY)
    assert metrics.ttft_s.p50 == pytest.approx(0.5)
    assert metrics.tpot_s.p50 == pytest.approx(0.6 / 3)
    assert metrics.e2e_s.p50 == pytest.approx(1.2)
    # Gaps: 0.1, 0.1, 0.4. A mean over events would be 0.3, and the median 0.2 or 0.4.
    assert metrics.itl_s.count == 3
    assert metrics.itl_s.mean == pytest.approx(0.2)
    assert metrics.itl_s.p50 == pytest.approx(0.1)
    assert metrics.itl_s.max == pytest.approx(0.4)


def test_an_event_of_k_tokens_is_k_gaps_of_one_kth() -> None:
    assert list(gaps(make_record())) == [(pytest.approx(0.1), 2), (pytest.approx(0.4), 1)]


def test_tokens_of_the_first_event_have_no_gap() -> None:
    record = make_record()
    record.events = [TokenEvent(10.5, 3), TokenEvent(11.1, 1)]
    assert list(gaps(record)) == [(pytest.approx(0.6), 1)]


def test_gaps_add_up_to_the_time_from_first_to_last() -> None:
    record = make_record()
    total_s = sum(gap_s * num_tokens for gap_s, num_tokens in gaps(record))
    assert total_s == pytest.approx(record.events[-1].time_s - record.events[0].time_s)


def test_throughput_counts_all_tokens_over_the_whole_run() -> None:
    late = make_record(1)
    late.sent_s, late.ended_s = 10.2, 12.0
    left = make_record(2, Outcome.LEFT)
    metrics = measure([make_record(), late, left], ANY)
    assert metrics.duration_s == pytest.approx(2.0)
    assert metrics.throughput == pytest.approx(12 / 2.0)
    assert metrics.prompt_tokens == 21


def test_goodput_leaves_out_what_missed_a_target() -> None:
    slow_start, slow_later, left = make_record(1), make_record(2), make_record(3, Outcome.LEFT)
    slow_start.sent_s = 9.8
    slow_later.events[-1] = TokenEvent(11.15, 1)
    records = [make_record(), slow_start, slow_later, left]
    metrics = measure(records, Targets(ttft_s=0.6, tpot_s=0.21))
    assert metrics.duration_s == pytest.approx(1.4)
    assert metrics.goodput == pytest.approx(4 / 1.4)
    assert measure(records, ANY).goodput == pytest.approx(12 / 1.4)


def test_latencies_are_of_finished_requests_only() -> None:
    failed = make_record(1, Outcome.FAILED)
    failed.sent_s, failed.error = 0.0, "status 503"
    metrics = measure([make_record(), failed, Record(index=2, error="late")], ANY)
    assert metrics.ttft_s.count == metrics.e2e_s.count == 1
    assert metrics.num_by_outcome == {"finished": 1, "left early": 0, "failed": 1, "not sent": 1}
    assert metrics.errors == {"status 503": 1, "late": 1}


def test_lag_is_how_late_the_client_itself_was() -> None:
    assert measure([make_record()], ANY).max_lag_s == pytest.approx(0.25)


def test_percentiles_are_nearest_rank() -> None:
    hundred = Distribution.of((float(value), 1) for value in range(100, 0, -1))
    assert (hundred.p50, hundred.p90, hundred.p99, hundred.max) == (50, 90, 99, 100)
    assert Distribution.of([(3.0, 1)]).p99 == 3.0


def test_percentiles_follow_the_weights() -> None:
    assert Distribution.of([(1.0, 1), (2.0, 9)]).p50 == 2.0
    assert Distribution.of([(1.0, 2.5), (9.0, 2.5)]).p50 == 1.0


def test_nothing_sent_is_all_zero() -> None:
    metrics = measure([], ANY)
    assert metrics.throughput == metrics.duration_s == metrics.ttft_s.count == 0


def stream(*times_s: float) -> Record:
    events = [TokenEvent(time_s, 1) for time_s in times_s]
    return Record(index=0, outcome=Outcome.FINISHED, events=events, output_tokens=len(events))


def test_decode_counts_from_the_last_first_token() -> None:
    """As an offline rate does: after 3 s come tokens at 4, 5 and 6 s."""
    assert measure([stream(1, 2, 3, 4), stream(3, 5, 6)], ANY).decode == 1.0


def test_there_is_no_decode_rate_unless_all_were_answered_together() -> None:
    assert measure([stream(1, 2, 3), stream(3, 5, 6)], ANY).decode is None
    assert measure([stream(1, 2), stream(1)], ANY).decode is None
    assert measure([], ANY).decode is None
