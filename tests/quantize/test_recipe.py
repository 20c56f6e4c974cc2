"""What a recipe may say, and how the command line changes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import CalibrationSpec, Recipe

FULL = Recipe(
    fold_norms=True,
    rotate=True,
    smooth_attention=0.5,
    reorder=True,
    clip=True,
    calibration=CalibrationSpec(num_samples=4),
)


@pytest.mark.parametrize(
    "technique",
    [
        *({name: True} for name in ("align_keys", "reorder", "clip", "gptq")),
        *({name: 0.0} for name in ("smooth_attention", "smooth_outputs")),
    ],
)
def test_what_looks_at_activations_needs_calibration(technique: dict[str, bool | float]):
    assert Recipe(**technique).needs_calibration
    assert Recipe(**technique).techniques == list(technique)


def test_what_does_not_needs_none():
    recipe = Recipe(fold_norms=True, rotate=True, rotate_heads=True, int8_lm_head=True)
    assert not recipe.needs_calibration


def test_survives_json():
    assert Recipe.from_json(FULL.to_json()) == FULL


def test_a_section_that_holds_no_fields_is_refused():
    with pytest.raises(ModelSourceError, match="calibration is 3; it has to hold fields"):
        Recipe.from_json({"calibration": 3})


def test_changes_are_applied_together_and_leave_the_rest():
    changes = ["reorder=false", "group_size=-1", "smooth_attention=null", "calibration.seed=7"]
    changed = FULL.with_changes(changes)
    assert changed == replace(
        FULL,
        reorder=False,
        group_size=-1,
        smooth_attention=None,
        calibration=CalibrationSpec(num_samples=4, seed=7),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rotat=true", "no field rotat; choose one of group_size, fold_norms, rotate, .*, gptq, "),
        ("calibration.size=1", "no field calibration.size; choose .* calibration.num_samples, "),
        ("speed.seed=1", "no field speed.seed"),
        ("clip=1", "clip is 1; it has to be true or false"),
        ("group_size=true", "group_size is True; it has to be an integer"),
        ("smooth_outputs=strong", "smooth_outputs is 'strong'; it has to be a number, or null"),
        ("smooth_outputs=1.5", "smooth_outputs is 1.5; it has to be within 0 and 1"),
        ("smooth_attention=.nan", "smooth_attention is nan; it has to be within 0 and 1"),
        ("calibration.num_samples=0", "calibration.num_samples is 0; it has to be at least 1"),
        ("calibration.length=2", "calibration.length is 2; it has to be at least 8"),
        ("calibration=3", "'calibration=3' is not of the form field=value"),
        ("clip", "'clip' is not of the form field=value"),
        ("clip=[", "the value of clip=.* is not YAML"),
        ("fold_norms=false", "rotate needs fold_norms"),
        ("group_size=-1", "reorder needs weight groups"),
    ],
)
def test_a_wrong_change_is_named_with_the_choices(change: str, message: str):
    with pytest.raises(ModelSourceError, match=f"^recipe: .*{message}"):
        FULL.with_changes([change])


def test_a_dense_checkpoint_has_no_int8_head():
    recipe = Recipe(int8_lm_head=True)
    assert recipe.quantization_config("w8a8kv8").int8_lm_head
    assert not recipe.quantization_config("bf16").int8_lm_head
