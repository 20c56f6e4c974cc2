"""The table of techniques, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qoq.quantize import quantize
from qoq.quantize.evaluation import ablation
from qoq.quantize.recipe import Recipe
from qoq.quantize.recipe_file import load_recipe

TEXT = "The quick brown fox jumps over the lazy dog, while nobody is watching. " * 4


def small(name: str) -> Recipe:
    return load_recipe(name).with_changes(["calibration.num_samples=4", "calibration.length=16"])


def stronger(name: str) -> Recipe:
    return small(name) if name == "rtn" else replace(small(name), smooth_attention=0.6)


@pytest.mark.parametrize("form", ["per-group", "per-channel"])
def test_each_row_adds_one_technique_up_to_the_whole_recipe(form: str):
    rows = [row for row in ablation.variants() if row.label.startswith(f"W4A8KV4 {form}")]
    kept = [row.recipe for row in rows if "(with" not in row.label]
    assert kept[-1] == load_recipe(f"qoq-{form}")
    for before, after in zip(kept, kept[1:], strict=False):
        assert set(before.techniques) < set(after.techniques)


def test_what_the_recipe_leaves_out_is_tried_and_not_kept(monkeypatch: pytest.MonkeyPatch):
    def without(name: str) -> Recipe:
        return load_recipe(name).with_changes(["smooth_outputs=null"])

    monkeypatch.setattr(ablation, "load_recipe", without)
    rows = [row for row in ablation.variants() if row.name.startswith("per-channel")]
    tried = [row for row in rows if row.recipe.smooth_outputs is not None]
    assert [row.label for row in tried] == ["W4A8KV4 per-channel: (with smoothing)"]


def test_a_checkpoint_has_one_recipe_however_it_is_run():
    found: dict[str, Recipe] = {}
    for row in ablation.variants():
        assert found.setdefault(row.name, row.recipe) == row.recipe


def test_every_row_is_measured_and_made_once(
    tiny_dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(ablation, "load_recipe", small)
    monkeypatch.setattr(quantize, "sample_model", lambda *_: pytest.fail("drew other samples"))
    (tmp_path / "wikitext2-raw-test.txt").write_text(TEXT)
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--window", "64"]
    assert ablation.main([str(tiny_dense), *options]) == 0
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    assert [row["model"] for row in results] == [row.label for row in ablation.variants()]
    assert results[0]["metrics"]["added loss"] == 0
    losses = [row["metrics"]["loss"] for row in results]
    assert len(set(losses)) == len(losses)  # no two rows ran the same thing
    monkeypatch.setattr(ablation, "quantize_model", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(ablation, "_measure", lambda *_: pytest.fail("measured again"))
    report = (tmp_path / "out" / "report.json").read_text()
    assert ablation.main([str(tiny_dense), *options]) == 0
    assert (tmp_path / "out" / "report.json").read_text() == report
    monkeypatch.setattr(ablation, "load_recipe", stronger)
    capsys.readouterr()
    assert ablation.main([str(tiny_dense), *options]) == 1
    assert "per-group-SmoothAttention follows another recipe" in capsys.readouterr().err
    assert ablation.main([str(tiny_dense), *options[:-1], "32"]) == 1
    assert "report.json is of another run" in capsys.readouterr().err


def test_missing_data_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert ablation.main(["model", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("ablation: ")
