"""From the command line to a table, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qoq.server.bench_command import with_kind
from qoq.server.main import main

from ...engine.benchmarks.shapes import write_shape


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    return write_shape(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["bench"], ["bench", "compare"]),
        (["bench", "m", "--streams", "1"], ["bench", "compare", "m", "--streams", "1"]),
        (["bench", "--streams", "1"], ["bench", "compare", "--streams", "1"]),
        (["bench", "throughput", "m"], ["bench", "throughput", "m"]),
        (["bench", "--help"], ["bench", "--help"]),
        (["serve", "m"], ["serve", "m"]),
        ([], []),
    ],
    ids=" ".join,
)
def test_bench_without_a_kind_compares(argv: list[str], expected: list[str]):
    assert with_kind(argv) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run on the GPU, whose kernels need K")
def test_a_model_that_cannot_be_measured_leaves_the_others(
    shape: Path, capsys: pytest.CaptureFixture[str]
):
    """One row, one sentence, and the results so far as JSON."""
    out = shape.parent / "out.json"
    load = ["--input-len", "20", "--output-len", "4", "--batch", "2"]
    assert main(["bench", "throughput", "lama", str(shape), *load, "--json", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("qoq bench: lama: neither a folder with a config.json nor one of")
    assert "llama-2-13b, llama-2-70b" in printed.err and len(printed.err.splitlines()) == 1
    [result] = json.loads(out.read_text())
    assert (result["model"], result["batch"], result["roofline"]) == ("tiny", 2, None)
    row = printed.out.splitlines()[2].split()
    assert row[:2] == ["tiny", "2"] and row[3] == f"{result['rate']['decode']:,.0f}"


def test_a_sentence_for_weights_that_have_scales_of_their_own(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["bench", "latency", "m", "--load-format", "auto", "--per-channel"]) == 1
    assert "--per-channel goes with --load-format dummy" in capsys.readouterr().err


def test_a_sentence_for_a_share_of_memory_that_cannot_be(
    shape: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["bench", "latency", str(shape), "--gpu-memory-utilization", "96"]) == 1
    message = "gpu_memory_utilization: expected more than 0 and at most 1, got 96.0"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["throughput", "m", "--batch", "some"], "'some': expected a whole number of at least 1"),
        (["throughput", "m", "--json", "no/such/file"], "there is no folder no/such"),
        (["latency", "m", "--batch", "0"], "'0': expected a whole number of at least 1"),
        (["sweep", "m", "--contexts", "-1"], "expected"),
        (["sweep", "m", "--plot", "out.txt"], "'out.txt': expected one of .png, .svg, .pdf"),
        (["throughput"], "required: MODEL"),
    ],
    ids=["batch", "json", "zero", "contexts", "plot", "no model"],
)
def test_a_wrong_flag_is_refused_before_the_run(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(["bench", *argv])
    assert message in capsys.readouterr().err
