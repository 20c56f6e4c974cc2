"""How many tokens an event is taken to carry."""

from qoq.loadtest.record import Record, TokenEvent, token_events


def test_counts_sent_along_are_exact() -> None:
    events = token_events([1.0, 2.0, 3.0], totals=[2, 3, 7], total=7)
    assert events == [TokenEvent(1.0, 2), TokenEvent(2.0, 1), TokenEvent(3.0, 4)]


def test_an_event_without_a_new_token_is_none() -> None:
    """Held-back text may come out at the end with no token of its own."""
    assert token_events([1.0, 2.0], totals=[1, 1], total=1) == [TokenEvent(1.0, 1)]


def test_a_final_count_is_shared_by_the_later_events() -> None:
    events = token_events([1.0, 2.0, 3.0], totals=[None, None, None], total=6)
    assert events == [TokenEvent(1.0, 1), TokenEvent(2.0, 2.5), TokenEvent(3.0, 2.5)]


def test_a_single_event_carries_everything() -> None:
    assert token_events([1.0], totals=[None], total=9) == [TokenEvent(1.0, 9)]
    assert token_events([], totals=[], total=0) == []


def test_no_tpot_without_a_second_token() -> None:
    record = Record(index=0, events=[TokenEvent(1.0, 1)], output_tokens=1)
    assert record.tpot_s is None
    assert Record(index=0).ttft_s is None
