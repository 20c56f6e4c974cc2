"""Recipes as they ship, as users write them, and which one is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.recipe import CalibrationSpec, Recipe
from qoq.quantize.recipe_file import choose_recipe, load_recipe, recipe_names


def test_the_three_recipes_ship_with_the_package():
    assert recipe_names() == ["qoq-per-channel", "qoq-per-group", "rtn"]
    per_group, per_channel = load_recipe("qoq-per-group"), load_recipe("qoq-per-channel")
    assert (per_group.group_size, per_channel.group_size) == (128, -1)
    assert per_group.needs_calibration and per_channel.needs_calibration
    assert load_recipe("rtn") == Recipe(int8_lm_head=True)


def test_a_file_of_the_users_own(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("clip: true\ncalibration: {length: 64}\n")
    own = load_recipe(str(tmp_path / "own.yaml"))
    assert own == Recipe(clip=True, calibration=CalibrationSpec(length=64))


@pytest.mark.parametrize(
    ("content", "message"),
    [("clip: [", "is not YAML"), ("- clip", "holds no fields"), ("clop: true", "no field clop")],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, message: str):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(ModelSourceError, match=message):
        load_recipe(str(path))


def test_an_unknown_name_is_answered_with_the_choices():
    with pytest.raises(ModelSourceError, match="'best' is neither one of qoq-per-channel, qoq-per"):
        load_recipe("best")


@pytest.mark.parametrize(
    ("precision", "group_size", "name"),
    [
        ("w4a8kv4", None, "qoq-per-group"),
        ("w4a8kv4", -1, "qoq-per-channel"),
        ("w8a8kv8", None, "rtn"),
        ("fp32", None, "rtn"),
    ],
)
def test_the_default_depends_on_what_is_made(precision: str, group_size: int | None, name: str):
    assert choose_recipe(None, precision, group_size) == load_recipe(name)


def test_a_group_size_goes_before_changes_and_over_the_recipe():
    assert choose_recipe("rtn", "w4a8kv4", 32).group_size == 32
    assert choose_recipe("rtn", "w4a8kv4", 32, ["group_size=64"]).group_size == 64
    assert choose_recipe("qoq-per-group", "w4a8kv4", -1, ["reorder=false"]).group_size == -1
