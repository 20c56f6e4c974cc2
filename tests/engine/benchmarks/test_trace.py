import pytest
import torch

from qoq.engine.benchmarks.trace import Interval, Kernel, busy_us, kernels, span_us, trace

# 0-10 and 8-15 overlap, 9-11 lies within both; then a gap of 5, then 20-30.
INTERVALS = [
    Interval("late", 20, 30),
    Interval("gemm", 0, 10),
    Interval("norm", 9, 11),
    Interval("gemm", 8, 15),
]


def test_what_overlaps_is_busy_once():
    assert busy_us(INTERVALS) == 25
    assert span_us(INTERVALS) == 30


def test_kernels_are_summed_by_name_and_divided_by_steps():
    """Under overlap the kernels' times add up to more than the busy time: 17 + 10 + 2."""
    assert kernels(INTERVALS, num_steps=2) == (
        Kernel("gemm", 1.0, 8.5, pytest.approx(17 / 29)),
        Kernel("late", 0.5, 5.0, pytest.approx(10 / 29)),
        Kernel("norm", 0.5, 1.0, pytest.approx(2 / 29)),
    )


@pytest.mark.gpu
def test_a_trace_has_each_kernel_that_ran_and_no_other():
    x = torch.ones(1000, device="cuda")
    x.add_(1)
    intervals = trace(lambda: [x.mul_(2) for _ in range(5)])
    assert len(intervals) == 5 and len({interval.name for interval in intervals}) == 1
    assert 0 < busy_us(intervals) <= span_us(intervals)
