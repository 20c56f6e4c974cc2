import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qoq.quantize import command
from qoq.quantize.layer_quantizer import LayerQuantizer

from .quantized_hf import gptq, write_quantized
from .tiny_gguf import write_tiny_gguf

ROUNDING = ("--recipe", "rtn", "--group-size", 32)


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_writes_a_checkpoint_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_tiny_gguf(tmp_path / "x.gguf")
    out = tmp_path / "deep" / "out"
    assert run(tmp_path / "x.gguf", "--out", out, *ROUNDING) == 0
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
    monkeypatch.setattr(LayerQuantizer, "__call__", interrupt)
    assert run(tmp_path / "x.gguf", "--out", tmp_path / "out", *ROUNDING) == 130
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


@pytest.mark.parametrize(
    "options", [("--recipe", "rtn"), ("--set", "clip=true"), ("--calib", "x"), ("--seed", 0)]
)
def test_a_recipe_for_weights_that_are_final_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, object]
):
    write_quantized(tmp_path / "model", gptq(64))
    assert run(tmp_path / "model", "--out", tmp_path / "out", *options) == 1
    assert "has its 4-bit weights already; leave --recipe" in capsys.readouterr().err


def test_the_recipe_its_changes_and_the_seed_reach_the_checkpoint(tmp_path: Path):
    write_tiny_gguf(tmp_path / "x.gguf")
    out = tmp_path / "out"
    options = ["--recipe", "rtn", "--set", "fold_norms=true", "--set", "rotate=true", "--seed", 5]
    assert run(tmp_path / "x.gguf", "--out", out, *options) == 0
    recipe = json.loads((out / "quantization_report.json").read_text())["recipe"]
    assert (recipe["rotate"], recipe["gptq"], recipe["calibration"]["seed"]) == (True, False, 5)
    entry = json.loads((out / "config.json").read_text())["quantization_config"]
    assert entry["techniques"] == ["fold_norms", "rotate"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "best"], "neither one of qoq-per-channel, qoq-per-group, rtn"),
        (["--recipe", "/gone.yaml"], "/gone.yaml"),
        (["--set", "clop=1"], "no field clop; choose one of group_size, "),
        (["--set", "clip=maybe"], "clip is 'maybe'; it has to be true or false"),
        (["--calib", "gone.txt"], "gone.txt is neither a file nor a dataset"),
        (["--recipe", "rtn", "--calib", "x.gguf"], "does not calibrate"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    write_tiny_gguf(tmp_path / "x.gguf")
    assert run(tmp_path / "x.gguf", "--out", tmp_path / "out", *options) == 1
    error = capsys.readouterr().err
    assert error.startswith("qoq quantize: ") and error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
