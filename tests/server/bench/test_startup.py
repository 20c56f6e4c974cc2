"""From the command line to a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from qoq.engine.benchmarks import startup as starts
from qoq.engine.benchmarks.startup import Start
from qoq.engine.config import EngineConfig
from qoq.engine.process_client import EngineStartError
from qoq.engine.protocol import EngineInfo
from qoq.server.main import main

from ...engine.benchmarks.shapes import write_shape

INFO = EngineInfo(
    model="tiny",
    max_model_len=512,
    vocab_size=96,
    eos_token_ids=(),
    bos_token_id=None,
    num_blocks=64,
    block_size=64,
    precision="w4a8kv4",
    device="A GPU",
    num_host_blocks=2**10,
    block_bytes=2**21,
)
SECONDS = {"process": 3.0, "device": 0.5, "weights": 2.25, "memory": 1.0, "graphs": 4.5}


@pytest.fixture
def shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No engine is started: a folder in its place has to be a checkpoint."""

    def measure(config: EngineConfig) -> Iterator[Start]:
        assert (config.model / "model.safetensors").is_file()
        yield Start("first, from disk", INFO, 11.25, SECONDS, 5 * 2**30, 3 * 2**30)
        yield Start("again, from memory", INFO, 8.5, SECONDS, 0, 3 * 2**30)

    monkeypatch.setattr(starts, "measure_starts", measure)
    return write_shape(tmp_path / "tiny")


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["bench", "startup", *argv]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("qoq bench: ") and len(printed.splitlines()) == 1
    return printed


def test_a_row_a_start(shape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, results = tmp_path / "out", tmp_path / "results.json"
    argv = [str(shape), "--per-channel", "--out", str(out), "--json", str(results)]
    assert main(["bench", "startup", *argv]) == 0
    wrote, title, columns, first, again, *_ = capsys.readouterr().out.splitlines()
    assert wrote.startswith(f"wrote 0.00 GiB to {out} in ")
    assert title.startswith("tiny: w4a8kv4, a checkpoint of 0.00 GiB, A GPU, torch ")
    assert columns.split()[:7] == ["start", "ready", *SECONDS]
    assert len(columns) == len(first) == len(again)
    assert " ".join(first.split()[3:]) == "11.2 3.0 0.5 2.2 1.0 4.5 5.00 3.00 2.00"
    assert [start["ready_s"] for start in json.loads(results.read_text())] == [11.25, 8.5]
    assert '"group_size": -1' in (out / "config.json").read_text()


def test_a_checkpoint_without_a_place_to_keep_it_is_removed(
    shape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["bench", "startup", str(shape)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_checkpoint_is_measured_as_it_is(
    shape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["bench", "startup", str(shape), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["bench", "startup", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("tiny: ")
    argv = [str(tmp_path / "out"), "--out", str(tmp_path / "other")]
    assert "out is a checkpoint; --out and --per-channel go with a shape" in refusal(argv, capsys)


def test_an_unknown_shape(shape: Path, capsys: pytest.CaptureFixture[str]):
    assert "lama: neither a folder with a config.json nor one of" in refusal(["lama"], capsys)


def test_a_folder_that_is_taken(shape: Path, capsys: pytest.CaptureFixture[str]):
    message = refusal([str(shape), "--out", str(shape)], capsys)
    assert "tiny exists already; choose another folder or remove it" in message


def test_an_engine_that_does_not_come_up(
    shape: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def measure(config: EngineConfig) -> Iterator[Start]:
        raise EngineStartError("not enough memory")
        yield

    monkeypatch.setattr(starts, "measure_starts", measure)
    assert "not enough memory" in refusal([str(shape)], capsys)
