"""Random weights of a model's true shapes: for measuring, with no checkpoint to download."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qoq.engine.checkpoint import CheckpointError, read_json
from qoq.engine.precision import Precision, parse_precision

PER_CHANNEL = -1
DEVIATION = 50.0  # about that of the INT8 weights


def shape_names() -> list[str]:
    """Shapes that come with the package."""
    folder = resources.files("qoq.configs") / "shapes"
    return sorted(path.name.removesuffix(".json") for path in folder.iterdir())


def read_shape(model: Path) -> dict[str, Any]:
    """The config of a folder or of one of ``shape_names()``. Raises CheckpointError for neither."""
    if (model / "config.json").is_file():
        return read_json(model / "config.json")
    if str(model) not in shape_names():
        raise CheckpointError(
            f"{model}: neither a folder with a config.json nor one of {', '.join(shape_names())}"
        )
    path = resources.files("qoq.configs") / "shapes" / f"{model}.json"
    config: dict[str, Any] = json.loads(path.read_text())
    return config


@contextmanager
def shape_folder(name: str, shape: dict[str, Any], num_positions: int) -> Iterator[Path]:
    """A model of that shape with so many positions: random weights run at any."""
    with tempfile.TemporaryDirectory(prefix="qoq-shape-") as parent:
        folder = Path(parent) / name
        folder.mkdir()
        longer = shape | {"max_position_embeddings": num_positions}
        (folder / "config.json").write_text(json.dumps(longer))
        yield folder


class DummyCheckpoint:
    """``model`` is a folder with a ``config.json``, or one of ``shape_names()``.

    Weights keep the scale of activations: each output has about its inputs' variance. Groups are
    of ``group_size``, or smaller where that does not divide K.
    Raises CheckpointError where there is no such config.
    """

    def __init__(self, model: Path, group_size: int, device: torch.device) -> None:
        self.folder = model
        self.config = read_shape(model)
        self._group_size = group_size
        self._device = device
        self._generator = torch.Generator(device).manual_seed(0)
        self._columns: dict[str, int] = {}
        self._scales: dict[str, Tensor] = {}

    def precision_for(self, name: str | None) -> Precision:
        return parse_precision(name or "w4a8kv4")

    def __contains__(self, name: str) -> bool:
        if name.endswith(".bias"):
            is_qkv = any(f".{part}_proj." in name for part in "qkv")
            return is_qkv and self.config["architectures"] == ["Qwen2ForCausalLM"]
        if name.endswith(".zeros"):
            return self._group_size == PER_CHANNEL
        return True

    def tensor(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        module, _, kind = name.rpartition(".")
        match kind:
            case "qweight":
                self._columns[module] = 2 * shape[1]
                return self._integers(0, 256, shape, torch.uint8)
            case "group_scales":
                columns = self._columns[module]
                groups = (shape[0], columns // math.gcd(columns, self._group_size))
                self._scales[module] = self._integers(1, 16, groups, torch.uint8)
                return self._scales[module]
            case "group_offsets":
                return (self._scales.pop(module).float() * -7.5).round().to(torch.int8)
            case "zeros":
                return self._integers(7, 9, shape, torch.uint8)
            case "scales":
                return torch.full(shape, self._scale(module), device=self._device)
            case "bias":
                return torch.zeros(shape, device=self._device)
        if dtype == torch.int8:
            self._columns[module] = shape[1]
            return self._integers(-119, 120, shape, torch.int8)
        if len(shape) == 1:
            return torch.ones(shape, device=self._device)
        weights = torch.empty(shape, dtype=torch.float16, device=self._device)
        return weights.normal_(generator=self._generator)

    def _scale(self, module: str) -> float:
        return 1 / (DEVIATION * math.sqrt(self._columns.get(module, 4096)))

    def _integers(self, low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randint(
            low, high, shape, dtype=dtype, device=self._device, generator=self._generator
        )
