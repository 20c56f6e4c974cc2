"""Recipes by name: those that come with qoq in ``configs/recipes``, and the user's own files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from qoq.engine.precision import PRECISIONS
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import PER_CHANNEL
from qoq.quantize.recipe import Recipe


def load_recipe(name: str) -> Recipe:
    """``name`` is one that comes with qoq, or the path of a YAML file."""
    if name.endswith((".yaml", ".yml")):
        text = Path(name).expanduser().read_text(encoding="utf-8")
    elif name in (known := recipe_names()):
        text = (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise ModelSourceError(
            f"recipe {name!r} is neither one of {', '.join(known)} nor a .yaml file"
        )
    try:
        entry = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ModelSourceError(f"recipe {name} is not YAML: {error}") from error
    if not isinstance(entry, dict):
        raise ModelSourceError(f"recipe {name} holds no fields; write one `field: value` a line")
    return Recipe.from_json(entry)


def choose_recipe(
    name: str | None, precision: str, group_size: int | None, changes: Sequence[str] = ()
) -> Recipe:
    """``load_recipe(name)`` with ``group_size`` and ``changes``; None are the defaults."""
    recipe = load_recipe(name or _default_name(precision, group_size))
    own = [] if group_size is None else [f"group_size={group_size}"]
    return recipe.with_changes([*own, *changes])


def recipe_names() -> list[str]:
    """Those that come with qoq."""
    names = (file.name for file in _folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _default_name(precision: str, group_size: int | None) -> str:
    """Eight bits lose little by rounding, and 16 bits nothing."""
    if PRECISIONS[precision].weight_bits != 4:
        return "rtn"
    return "qoq-per-channel" if group_size == PER_CHANNEL else "qoq-per-group"


def _folder() -> Traversable:
    return resources.files("qoq.configs") / "recipes"
