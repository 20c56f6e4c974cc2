"""A recipe: which techniques the quantizer applies to a model, and how strongly.

A field that is absent is off, so ``Recipe()`` rounds to nearest and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import NoneType
from typing import Any, Self, get_type_hints

import yaml

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import PER_CHANNEL, QuantizationConfig

SECTION = "calibration"
MIN_LENGTH = 8  # tokens: a sample has to have a start and something that follows
FORMATS = ("group_size", "int8_lm_head", SECTION)  # fields that are no techniques
ACCEPTED: dict[object, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float | None: (int, float, NoneType),
}
MEANINGS = {bool: "true or false", int: "an integer", float | None: "a number, or null for off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSpec:
    """``num_samples`` windows of ``length`` tokens; ``seed`` draws or chooses them."""

    num_samples: int = 64
    length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("length", MIN_LENGTH)):
            if (value := getattr(self, name)) < least:
                raise ModelSourceError(
                    f"recipe: {SECTION}.{name} is {value}; it has to be at least {least}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Techniques in the order in which they are applied; ``smooth_*`` are exponents, None is off.

    ``group_size`` of 4-bit weights is -1 for one scale a channel.
    """

    group_size: int = 128
    fold_norms: bool = False
    rotate: bool = False
    rotate_heads: bool = False
    align_keys: bool = False
    smooth_attention: float | None = None
    smooth_outputs: float | None = None
    reorder: bool = False
    clip: bool = False
    gptq: bool = False
    int8_lm_head: bool = False
    calibration: CalibrationSpec = CalibrationSpec()

    def __post_init__(self) -> None:
        if self.rotate and not self.fold_norms:
            raise ModelSourceError("recipe: rotate needs fold_norms; set both or neither")
        if self.reorder and self.group_size == PER_CHANNEL:
            raise ModelSourceError(
                "recipe: reorder needs weight groups; set reorder=false or group_size=128"
            )
        for name in ("smooth_attention", "smooth_outputs"):
            alpha = getattr(self, name)
            if alpha is not None and not 0 <= alpha <= 1:
                raise ModelSourceError(f"recipe: {name} is {alpha}; it has to be within 0 and 1")

    @property
    def techniques(self) -> list[str]:
        """Names of the fields that are on, in order."""
        names = (field.name for field in fields(self) if field.name not in FORMATS)
        return [name for name in names if getattr(self, name) is not getattr(ROUNDING, name)]

    @property
    def needs_calibration(self) -> bool:
        """Whether a technique looks at activations."""
        is_smooth = self.smooth_attention is not None or self.smooth_outputs is not None
        return is_smooth or self.align_keys or self.reorder or self.clip or self.gptq

    def quantization_config(self, precision: str) -> QuantizationConfig:
        """What a checkpoint of ``precision`` holds. A dense one has no INT8 lm_head."""
        config = QuantizationConfig(precision, self.group_size)
        return config if config.is_dense else replace(config, int8_lm_head=self.int8_lm_head)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Self:
        """Raises ModelSourceError, naming the field and the choices, for what is no recipe."""
        top = {name: value for name, value in entry.items() if name != SECTION}
        section = entry.get(SECTION, {})
        if not isinstance(section, dict):
            raise ModelSourceError(f"recipe: {SECTION} is {section!r}; it has to hold fields")
        spec = CalibrationSpec(**_checked(CalibrationSpec, section, f"{SECTION}."))
        return cls(**_checked(cls, top, ""), calibration=spec)

    def with_changes(self, changes: Sequence[str]) -> Self:
        """``field=value`` each, as on the command line; ``calibration.seed=1`` for a nested one."""
        entry = self.to_json()
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals or name == SECTION:
                raise ModelSourceError(f"recipe: {change!r} is not of the form field=value")
            is_nested = name.startswith(f"{SECTION}.")
            target = entry[SECTION] if is_nested else entry
            target[name.removeprefix(f"{SECTION}.")] = _value(change, value)
        return self.from_json(entry)


ROUNDING = Recipe()


def _value(change: str, value: str) -> object:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ModelSourceError(f"recipe: the value of {change} is not YAML") from None


def _checked(kind: type, entry: dict[str, Any], prefix: str) -> dict[str, Any]:
    """``entry`` as arguments of the dataclass ``kind``: its fields, each of the field's type."""
    types = get_type_hints(kind)
    types.pop(SECTION, None)
    for name, value in entry.items():
        if name not in types:
            choices = ", ".join(prefix + known for known in types)
            raise ModelSourceError(
                f"recipe: there is no field {prefix}{name}; choose one of {choices}"
            )
        if type(value) not in ACCEPTED[types[name]]:
            raise ModelSourceError(
                f"recipe: {prefix}{name} is {value!r}; it has to be {MEANINGS[types[name]]}"
            )
    return entry
