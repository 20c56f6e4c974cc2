"""What is printed of results that are given."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from qoq.engine.benchmarks.latency import Latencies, Latency
from qoq.engine.benchmarks.rate import Rate
from qoq.server.bench import breakdown, latency, sweep, throughput
from qoq.server.bench.sweep_plot import lines, save_plot

from .results import DECODE, SWEEP, THROUGHPUT

ARGS = argparse.Namespace(load_format="dummy", per_channel=True, breakdown=True)


def test_a_throughput_row_and_what_it_means(capsys: pytest.CaptureFixture[str]):
    table = throughput.Table(ARGS)
    table.add(THROUGHPUT)
    table.explain()
    printed = capsys.readouterr().out
    title, columns, row = printed.splitlines()[:3]
    assert title.startswith(
        "w4a8kv4, one scale a channel, dummy weights, 1024 tokens in, 512 out, A GPU, torch "
    )
    names = ["model", "batch", "total", "decode", "prefill", "weights", "KV", "roofline"]
    values = ["llama-3-8b", "256", "16,000", "25,000", "61,000", "5.00", "13.00", "50,000"]
    assert columns.split()[:8] == names
    assert row.split() == [*values, "50.0%"]
    assert "B = 2.99 TB/s of a copy, P = 1400 INT8 or FP8 tera-operations/s" in printed


def test_a_breakdown_sums_up_small_kernels():
    title, host, device, columns, gemm, long, rest = breakdown.text(DECODE).splitlines()
    assert title == (
        "decode, 256 requests at 1280 tokens: 10100.0 us a step, 50.0% of the roofline's 5050.0 us"
    )
    assert host.strip() == "host: schedule 100.0, submit 200.0, update 50.0 us"
    assert device.strip() == ("under the profiler: 10200.0 us a step, GPU busy 9996.0 us, gap 2.0%")
    assert columns.split() == ["kernel", "or", "copy", "launches", "us", "share"]
    assert gemm.split() == ["_w4a8_gemm_kernel", "128.0", "7000.0", "70.0%"]
    assert long.split()[1:] == ["32.0", "2990.0", "29.9%"] and len(long) == len(gemm)
    assert rest.split() == ["2", "others", "5.0", "10.0", "0.1%"]


def test_a_sweep_is_a_row_a_batch_and_a_column_a_context():
    header, one, many, *_ = sweep.text(SWEEP).splitlines()
    assert header.split() == ["batch", "512", "1024"]
    assert one.split() == ["1", "400", "390"]
    assert many.split() == ["64", "12,346", "-"]


def test_a_plot_has_a_line_a_context_of_what_fits(tmp_path: Path):
    assert lines(SWEEP) == {512: [(1, 400.0), (64, 12345.6)], 1024: [(1, 390.0)]}
    pytest.importorskip("matplotlib", reason="plots are an extra")
    save_plot([SWEEP, SWEEP], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_a_latency_row_stands_under_its_names():
    row = Latency(4, 12.345, 2.5, 3.0, Rate(1600.0, 1500.5))
    names, values, *_ = latency.text(Latencies("m", "w4a8kv4", "A GPU", (row,))).splitlines()
    assert values.split() == ["4", "12.35", "2.500", "3.000", "1,600.0", "1,500.5"]
    assert len(names) == len(values)
