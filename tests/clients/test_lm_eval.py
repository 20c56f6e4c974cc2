"""lm-evaluation-harness over HTTP counts what `qoq eval` counts, question by question the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from ..engine.talking_model import write_talking_model
from ..server.serve_process import serve_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("lm_eval"), reason="needs pip install 'lm_eval[api]'"),
]

NUM_QUESTIONS = 80
# `qoq eval` normalizes by bytes, and so does acc_bytes; acc_norm of the harness counts characters.
TASK = """\
task: local
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: multiple_choice
doc_to_text: "Question: {{query}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PIQA's form; answers of unlike length, so that normalizing changes some choices."""
    random, folder = Random(0), tmp_path_factory.mktemp("data")

    def text(least: int, most: int) -> str:
        return "".join(random.choices("abc éz日", k=random.randint(least, most))).strip() or "a"

    with (folder / "piqa_val.jsonl").open("w") as file:
        for _ in range(NUM_QUESTIONS):
            choices = [text(1, 40), text(1, 40)]
            row = {"query": text(5, 60), "choices": choices, "gold": random.randint(0, 1)}
            file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = write_talking_model(tmp_path_factory.mktemp("model") / "model")
    settings = {"bos_token": "<bos>", "eos_token": "<eos>"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


@pytest.fixture
def url(model: Path, tmp_path: Path) -> Iterator[str]:
    with serve_process(model, tmp_path / "log", "--precision", "fp32") as (_, url):
        yield url


def test_accuracy_is_that_of_qoq_eval(model: Path, data: Path, url: str, tmp_path: Path) -> None:
    """The harness is told nothing but the address: it tokenizes by the server too."""
    ours, theirs = qoq_eval(model, data, tmp_path), lm_eval(url, model, data, tmp_path)
    assert theirs == pytest.approx(ours)
    assert theirs["acc"] != theirs["acc_norm"], "the data cannot tell the two apart"


def qoq_eval(model: Path, data: Path, folder: Path) -> dict[str, float]:
    command = ["qoq.server.main", "eval", f"{model}@fp32", "--tasks", "piqa", "--data", str(data)]
    run([*command, "--out", str(folder / "ours")], folder)
    (result,) = json.loads((folder / "ours" / "report.json").read_text())["results"]
    return {name: result["metrics"][name] for name in ("acc", "acc_norm")}


def lm_eval(url: str, model: Path, data: Path, folder: Path) -> dict[str, float]:
    (folder / "task.yaml").write_text(TASK.replace("DATA", str(data / "piqa_val.jsonl")))
    where = f"model={model},base_url={url}/v1/completions,num_concurrent=8"
    command = ["lm_eval", "--model", "local-completions", "--model_args", where]
    command += ["--tasks", "local", "--include_path", str(folder)]
    run([*command, "--output_path", str(folder / "theirs")], folder)
    (results,) = (folder / "theirs").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["local"]
    return {"acc": found["acc,none"], "acc_norm": found["acc_bytes,none"]}


def run(command: list[str], home: Path) -> None:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    result = subprocess.run(
        [sys.executable, "-P", "-m", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environ,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
