"""Workloads follow from their seed, and traces are read by the names of their columns."""

import random
from pathlib import Path
from statistics import median

import pytest

from qoq.loadtest.workload import TraceRow, make_jobs, parse_lengths, read_trace


def test_fixed_length() -> None:
    assert parse_lengths("128")(random.Random(0)) == 128


def test_uniform_lengths_reach_both_bounds() -> None:
    draw = random.Random(0)
    assert {parse_lengths("uniform:3:5")(draw) for _ in range(100)} == {3, 4, 5}


def test_lognormal_lengths_have_the_median_asked_for() -> None:
    draw, lengths = random.Random(0), parse_lengths("lognormal:100:0.5")
    # The median of 4000 draws is within 1.25 * sigma / sqrt(4000), 1 %, with 68 %; five of those.
    assert median(lengths(draw) for _ in range(4000)) == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    "text", ["", "0", "-3", "many", "uniform:5:3", "uniform:0:3", "lognormal:inf:1", "normal:1:2"]
)
def test_nonsense_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lengths(text)


def test_a_prompt_has_one_word_a_token() -> None:
    (job,) = make_jobs([(37, 5)], leave_share=0.0, seed=1)
    assert len(job.prompt.split()) == 37
    assert job.output_len == 5
    assert job.leave_after is None


def test_the_share_that_leaves_is_exact_and_midway() -> None:
    leaving = [
        job for job in make_jobs([(8, 20)] * 200, 0.3, seed=7) if job.leave_after is not None
    ]
    assert len(leaving) == 60
    # 0 is leaving before the first token, which a server must survive too.
    assert {job.leave_after for job in leaving} == set(range(11))


def test_the_same_seed_makes_the_same_jobs() -> None:
    lengths = [(8, 20)] * 50
    assert make_jobs(lengths, 0.3, seed=7) == make_jobs(lengths, 0.3, seed=7)
    assert make_jobs(lengths, 0.3, seed=7) != make_jobs(lengths, 0.3, seed=8)


def write(folder: Path, text: str) -> Path:
    (folder / "trace.csv").write_text(text)
    return folder / "trace.csv"


def test_a_trace_in_seconds(tmp_path: Path) -> None:
    path = write(tmp_path, "t_s,input_tokens,output_tokens\n2.5,374,44\n4.0,396,109\n9,1,1\n")
    assert read_trace(path, max_rows=2) == [TraceRow(374, 44, 0.0), TraceRow(396, 109, 1.5)]


def test_a_trace_with_dates(tmp_path: Path) -> None:
    """The columns and the seven decimals of the public Azure traces."""
    path = write(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n",
    )
    first, second = read_trace(path, max_rows=10)
    assert (first.input_len, first.output_len, first.arrival_s) == (374, 44, 0.0)
    assert second.arrival_s == pytest.approx(4.314579, abs=1e-5)


def test_a_trace_of_lengths_only_has_no_times(tmp_path: Path) -> None:
    path = write(tmp_path, "input_tokens,output_tokens\n33,255\n17,0\n")
    assert read_trace(path, max_rows=10) == [TraceRow(33, 255, None), TraceRow(17, 1, None)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "no column"),
        ("", "no column"),
        ("input_tokens,output_tokens\n", "no requests"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_trace(write(tmp_path, text), max_rows=10)


def test_a_prompt_of_token_ids_has_exactly_as_many() -> None:
    (job,) = make_jobs([(500, 5)], leave_share=0.0, seed=1, num_token_ids=7)
    assert len(job.prompt) == 500 and set(job.prompt) == set(range(7))
