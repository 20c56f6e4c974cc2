"""Arrival processes: as many offsets as requests, at the rate or times asked for."""

from itertools import pairwise
from statistics import mean

import pytest

from qoq.loadtest.arrivals import all_at_once, closed_loop, from_trace, poisson, steady
from qoq.loadtest.workload import TraceRow


def test_poisson_has_the_rate_and_the_spread_of_an_exponential() -> None:
    offsets_s = poisson(10_001, rate=4.0, seed=3).offsets_s
    gaps_s = [after - before for before, after in pairwise(offsets_s)]
    assert offsets_s[0] == 0.0
    # The standard error of the mean is 1 % of it, that of the share below about 0.5 %; five each.
    assert mean(gaps_s) == pytest.approx(0.25, rel=0.05)
    assert mean(gap_s < 0.25 for gap_s in gaps_s) == pytest.approx(0.632, abs=0.025)


def test_poisson_of_one_request() -> None:
    assert poisson(1, rate=4.0, seed=3).offsets_s == [0.0]


def test_a_closed_loop_is_bounded_and_the_rest_is_not() -> None:
    assert closed_loop(5, num_clients=2).max_in_flight == 2
    assert all_at_once(5).max_in_flight is None
    assert poisson(5, 1.0, seed=0).max_in_flight is None


def test_a_trace_keeps_its_times() -> None:
    assert from_trace([TraceRow(1, 1, 0.0), TraceRow(1, 1, 2.5)]).offsets_s == [0.0, 2.5]


def test_a_trace_without_times_is_sent_at_once() -> None:
    assert from_trace([TraceRow(1, 1, None)] * 3) == all_at_once(3)


def test_steady_arrivals_begin_after_the_first_interval() -> None:
    assert steady(3, 0.5).offsets_s == [0.5, 1.0, 1.5]
