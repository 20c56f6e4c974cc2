"""The command from its arguments to its tables, and every way to use it wrongly."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qoq.quantize.evaluation import command, plot

TEXT = "The quick brown fox jumps over the lazy dog, while nobody is watching. " * 8
QUESTION = {"query": "Is it?", "choices": ["yes", "no"], "gold": 0}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wikitext2-raw-test.txt").write_text(TEXT)
    for name in ("piqa_val", "arc_easy_test", "social_iqa_val"):
        (folder / f"{name}.jsonl").write_text(json.dumps(QUESTION) + "\n")
    (folder / "lambada_openai_test.jsonl").write_text(json.dumps({"text": TEXT[:69]}) + "\n")
    return folder


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_every_task_on_several_precisions(
    tiny_dense: Path,
    tiny_quantized: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    models = [f"{tiny_dense}@fp32", f"{tiny_quantized}@w4a8kv4", f"{tiny_quantized}@w4a4"]
    options = ["--tasks", ",".join(command.TASKS), "--data", data, "--text", __file__]
    options += ["--window", 64, "--num-windows", 2, "--reference", f"{tiny_dense}@fp32"]
    assert run(*models, *options, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr()
    for task in command.TASKS:
        assert f"\n{task}: " in f"\n{captured.out}"
    assert "tokens/s" in captured.out and "token/s" in captured.err  # the table, the bar
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["run"]["seed"] == 0 and "torch" in content["run"]
    found = {(r["model"], r["task"]): r["metrics"] for r in content["results"]}
    assert len(found) == 3 * len(command.TASKS)
    assert found["dense fp32", "wikitext2"]["KL"] == 0
    losses = [found[f"{model}", "wikitext2"]["KL"] for model in ("w4a8kv4 w4a8kv4", "w4a8kv4 w4a4")]
    assert 0 < losses[0] < losses[1]
    assert (tmp_path / "out" / "report.png").exists() == plot.can_plot()


def test_without_matplotlib_everything_but_the_plot_is_written(
    tiny_dense: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(plot, "can_plot", lambda: False)
    assert (
        run(
            tiny_dense,
            "--precision",
            "fp32",
            "--data",
            data,
            "--window",
            64,
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    assert "no plot without matplotlib: pip install 'qoq[eval]'" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.json",
        "report.md",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--tasks", "piqa", "--data", "nowhere"],
            "needs nowhere/piqa_val.jsonl, which is missing",
        ),
        (["--tasks", "text"], "task text needs a text; name its file by --text"),
        (["--tasks", "text", "--text", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--window", "600"], "a passage of 600 tokens exceeds the 512"),
        (["--window", "5000"], "not even one window of 5000; give a longer text or a smaller"),
        (["--precision", "w8a8kv8"], "w8a8kv8"),
    ],
)
def test_problems_are_one_sentence_and_exit_code_1(
    tiny_quantized: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    (data / "wikitext2-raw-test.txt").write_text(TEXT * 2)
    assert run(tiny_quantized, "--data", data, *arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("qoq eval: ") and message in last


def test_missing_data_is_said_before_a_model_is_looked_for(capsys: pytest.CaptureFixture[str]):
    assert run("no-such-model", "--data", "nowhere") == 1
    assert "wikitext2-raw-test.txt" in capsys.readouterr().err


def test_a_second_model_that_cannot_run_is_said_before_the_first_runs(
    tiny_dense: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(f"{tiny_dense}@fp32", "no-such-model", "--data", data, "--window", 64) == 1
    captured = capsys.readouterr()
    assert "no-such-model" in captured.err and "wikitext2" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "piqa,mmlu"], "'mmlu' is not a task; choose of wikitext2, piqa"),
        (["--num-windows", "0"], "expected a number of at least 1, got '0'"),
        (["--precision", "int3"], "invalid choice: 'int3'"),
        ([], "MODEL"),
    ],
)
def test_bad_arguments_are_refused_with_the_choices(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    with pytest.raises(SystemExit):
        run(*(["model"] if arguments else []), *arguments)
    assert message in capsys.readouterr().err


def test_an_interrupt_has_its_own_exit_code(
    tiny_dense: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qoq.quantize.evaluation.text_task.mean_loss", interrupt)
    assert run(f"{tiny_dense}@fp32", "--data", data, "--window", 64) == 130
    assert "interrupted" in capsys.readouterr().err


def test_reading_the_arguments_does_not_load_torch():
    code = "import sys, qoq.quantize.evaluation.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
