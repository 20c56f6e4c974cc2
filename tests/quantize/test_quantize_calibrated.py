"""Runs that calibrate: what they record, that they repeat, and what they leave when they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qoq.quantize import quantize
from qoq.quantize.calibration.text import CalibrationText
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.layer_quantizer import LayerQuantizer
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import CalibrationSpec, Recipe

from .evaluation.tiny_chat import write_tiny_chat

SPEC = CalibrationSpec(num_samples=4, length=16)
FULL = Recipe(
    group_size=32,
    fold_norms=True,
    rotate=True,
    rotate_heads=True,
    smooth_attention=0.5,
    smooth_outputs=0.2,
    reorder=True,
    clip=True,
    gptq=True,
    int8_lm_head=True,
    calibration=SPEC,
)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny") / "model")


def run(model: Path, out: Path, recipe: Recipe = FULL, **options: Any) -> dict[str, Any]:
    """The report."""
    quantize_model(model, out, recipe=recipe, progress=False, **options)
    report: dict[str, Any] = json.loads((out / "quantization_report.json").read_text())
    return report


def test_the_checkpoint_says_how_it_was_made(model: Path, tmp_path: Path):
    report = run(model, tmp_path / "out")
    assert Recipe.from_json(report["recipe"]) == FULL
    digest = report["calibration"].pop("sha256")
    assert report["calibration"] == {
        "origin": "sampled from the model",
        "num_samples": 4,
        "length": 16,
    }
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert entry["calibration_sha256"] == digest and len(digest) == 64
    assert entry["techniques"] == FULL.techniques
    assert len(report["layers"]) == 2 * 7
    errors = [layer["relative_error"] for layer in report["layers"].values()]
    assert min(errors) > 0 and max(errors) < 0.2


def test_only_the_checkpoint_is_left(model: Path, tmp_path: Path):
    run(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in model.iterdir()} | {"quantization_report.json"}


def test_a_seed_gives_the_same_bits_again(model: Path, tmp_path: Path):
    seeded = {name: CalibrationSpec(num_samples=4, length=16, seed=s) for name, s in SEEDS.items()}
    for name, spec in seeded.items():
        run(model, tmp_path / name, Recipe(group_size=32, gptq=True, calibration=spec))
    again, first, other = ((tmp_path / n / "model.safetensors").read_bytes() for n in SEEDS)
    assert first == again != other


SEEDS = {"a": 0, "b": 0, "c": 1}


def test_a_text_of_the_users_own_is_what_is_calibrated_on(model: Path, tmp_path: Path):
    path = tmp_path / "own.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 5)
    report = run(model, tmp_path / "out", calib=str(path))
    windows = CalibrationText.read(str(path)).windows(model, SPEC)
    assert report["calibration"] == windows.to_json()
    assert report["calibration"]["origin"] == "from own.txt"


def test_a_rotated_model_is_what_is_rounded(model: Path, tmp_path: Path):
    """0.12 is the error of rounding Gaussian rows with a sixth for luck, see test_quantize.py; a
    weight that was transformed in one run and not in the other would be off by its own size.
    """
    recipe = Recipe(group_size=32, fold_norms=True, rotate=True, rotate_heads=True)
    run(model, tmp_path / "dense", recipe, precision="fp32")
    report = run(model, tmp_path / "w4", recipe)
    assert report["calibration"] is None
    errors = [layer["relative_error"] for layer in report["layers"].values()]
    assert max(errors) < 0.12
    dense, w4 = (load_file(tmp_path / name / "model.safetensors") for name in ("dense", "w4"))
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(w4[name], dense[name]), name


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no text"), ("too short", r"9 tokens, and 4 samples of 16 take 64")],
)
def test_a_text_that_will_not_do_is_refused_before_any_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
):
    (tmp_path / "own.txt").write_text(text)
    monkeypatch.setattr(LayerQuantizer, "__call__", lambda *_: pytest.fail("began"))
    with pytest.raises(ModelSourceError, match=rf"own\.txt .*{message}"):
        run(model, tmp_path / "out", calib=str(tmp_path / "own.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_a_text_that_nothing_would_read_is_refused(model: Path, tmp_path: Path):
    with pytest.raises(ModelSourceError, match="does not calibrate; leave --calib out"):
        run(model, tmp_path / "out", Recipe(), calib="own.txt")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("where", ["sample_windows", "StoredModel"])
def test_an_interrupted_run_leaves_nothing(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: type[BaseException],
):
    """While samples are drawn, with a checkpoint to draw them from on disk, and after that."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(quantize, where, fail)
    with pytest.raises(error):
        run(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
