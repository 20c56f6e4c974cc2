"""Against a timeline that was worked out by hand."""

import pytest

from qoq.loadtest.interference import Interference
from qoq.loadtest.record import Outcome, Record, TokenEvent


def record(sent_s: float, *events: tuple[float, float], outcome=Outcome.FINISHED) -> Record:
    events_of = [TokenEvent(*event) for event in events]
    return Record(index=0, outcome=outcome, sent_s=sent_s, events=events_of)


# Gaps of 1 s to 4 s, then one of 0.5 s a token up to 6 s; of 1 s from there on.
OTHER = record(0.0, (1, 1), (2, 1), (3, 1), (4, 1), (6, 4), (7, 1), (8, 1))


def test_gaps_count_from_a_long_prompt_s_sending_to_its_first_text() -> None:
    """From 4.5 to 6.5 s: the gaps that end at 6 and at 7 s overlap it, those at 4 and 8 do not."""
    beside = Interference.of([record(4.5, (6.5, 1), (7.5, 1))], [OTHER])
    assert (beside.num_finished, beside.num_sent, beside.ttft_s.p50) == (1, 1, 2.0)
    assert beside.itl_s.count == 5
    assert (beside.itl_s.p50, beside.itl_s.max) == (0.5, 1)


def test_a_long_prompt_that_failed_is_told_and_counts_for_nothing() -> None:
    failed = record(0.0, (8, 1), outcome=Outcome.FAILED)
    beside = Interference.of([failed], [OTHER])
    assert (beside.num_finished, beside.num_sent) == (0, 1)
    assert beside.itl_s.count == beside.ttft_s.count == 0


def test_a_gap_in_two_spans_counts_once() -> None:
    long = record(4.5, (6.5, 1))
    assert Interference.of([long, long], [OTHER]).itl_s.count == pytest.approx(5)
