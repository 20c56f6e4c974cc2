"""Which configuration is the fastest for a shape: measured by ``qoq tune``, shipped, looked up.

One table a GPU architecture, ``configs/gemm/sm_90.json``. Results do not depend on the choice, only
speed does: a shape that was not measured takes the choices of the nearest one that was.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from qoq.kernels.gpu.gemm.w4a8_config import Config, HopperTile, TileConfig

KINDS = {"portable": TileConfig, "hopper": HopperTile}


@dataclass(frozen=True, slots=True)
class Choice:
    """The configuration for up to ``max_m`` tokens, and what it took in microseconds there."""

    max_m: int
    config: Config
    us: float

    def to_json(self) -> dict[str, Any]:
        kind = next(name for name, type_ in KINDS.items() if isinstance(self.config, type_))
        return {"max_m": self.max_m, "us": round(self.us, 1), kind: self.config._asdict()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Choice:
        kind = next(name for name in KINDS if name in fields)
        return cls(fields["max_m"], KINDS[kind](**fields[kind]), fields["us"])


@dataclass(frozen=True, slots=True)
class Shape:
    """A weight ``[n, k]``; per channel without groups."""

    n: int
    k: int
    per_channel: bool

    def distance(self, other: Shape) -> float:
        kinds = 100.0 * (self.per_channel != other.per_channel)
        return kinds + abs(math.log(self.n / other.n)) + abs(math.log(self.k / other.k))


@dataclass(frozen=True, slots=True)
class GemmTable:
    """``measured_on``: card, versions and date of the sweep."""

    measured_on: str
    choices: dict[Shape, list[Choice]]

    def choose(self, shape: Shape, m: int) -> Config:
        """For ``m`` tokens: the smallest bucket that holds them, or the largest there is."""
        choices = self.choices[min(self.choices, key=shape.distance)]
        return next((choice for choice in choices if m <= choice.max_m), choices[-1]).config

    def to_json(self) -> str:
        """A line a choice."""
        shapes = []
        for shape, choices in self.choices.items():
            head = json.dumps(asdict(shape))[:-1]
            lines = ",\n   ".join(json.dumps(choice.to_json()) for choice in choices)
            shapes.append(f'  {head}, "choices": [\n   {lines}]}}')
        rows = ",\n".join(shapes)
        return f'{{"measured_on": {json.dumps(self.measured_on)},\n "shapes": [\n{rows}]}}\n'

    @classmethod
    def from_json(cls, text: str) -> GemmTable:
        fields = json.loads(text)
        choices = {
            Shape(row["n"], row["k"], row["per_channel"]): [
                Choice.from_json(choice) for choice in row["choices"]
            ]
            for row in fields["shapes"]
        }
        return cls(fields["measured_on"], choices)


@cache
def shipped_table(arch: int) -> GemmTable | None:
    """Of compute capability ``arch`` (90 for sm_90); None where nobody measured."""
    path = resources.files("qoq.configs") / "gemm" / f"sm_{arch}.json"
    if not path.is_file():
        return None
    return GemmTable.from_json(path.read_text())
