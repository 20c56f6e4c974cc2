import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qoq.quantize import command
from qoq.quantize.rounding import Rounding

from .quantized_hf import gptq, write_quantized
from .tiny_gguf import write_tiny_gguf


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_writes_a_checkpoint_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_tiny_gguf(tmp_path / "x.gguf")
    out = tmp_path / "deep" / "out"
    assert run(tmp_path / "x.gguf", "--out", out, "--group-size", 32) == 0
    assert (out / "model.safetensors").exists()
    captured = capsys.readouterr()
    assert captured.out == f"wrote {out}\n"
    assert "layer/s" in captured.err or "s/layer" in captured.err  # the progress bar


@pytest.mark.parametrize("problem", ["taken", "missing", "shape"])
def test_problems_are_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
):
    write_tiny_gguf(tmp_path / "x.gguf")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    model = tmp_path / ("gone.gguf" if problem == "missing" else "x.gguf")
    out = tmp_path / ("taken" if problem == "taken" else "out")
    if problem == "shape":
        (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert run(model, "--out", out) == 1
    error = capsys.readouterr().err
    assert error.startswith("qoq quantize: ") and error.count("\n") == 1


def test_an_interrupt_is_said_and_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_tiny_gguf(tmp_path / "x.gguf")
    monkeypatch.setattr(Rounding, "encode", interrupt)
    assert run(tmp_path / "x.gguf", "--out", tmp_path / "out", "--group-size", 32) == 130
    assert capsys.readouterr().err.endswith("interrupted; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_reading_the_arguments_does_not_load_torch():
    code = "import sys, qoq.quantize.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("precision", ["w4a8kv4", "fp32"])
def test_another_quantizers_checkpoint_is_imported_or_dequantized(tmp_path: Path, precision: str):
    write_quantized(tmp_path / "model", gptq(64))
    out = tmp_path / "out"
    assert run(tmp_path / "model", "--out", out, "--precision", precision) == 0
    entry = json.loads((out / "config.json").read_text()).get("quantization_config")
    assert (entry and entry["group_size"]) == (64 if precision == "w4a8kv4" else None)
