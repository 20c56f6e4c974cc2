"""Tiny models in the checkpoint formats of other quantizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qoq.quantize.sources.model_source import is_decoder_linear

from ..engine.tiny_model import write_tiny_model
from .quantized_linear import (
    QServeLinear,
    QuantizedLinear,
    awq_tensors,
    compressed_tensors,
    gptq_tensors,
    qserve_tensors,
    random_linear,
    random_qserve,
)

Linear = QuantizedLinear | QServeLinear
# Groups of 32 and of 64 divide every K.
SHAPE = {"hidden_size": 64, "intermediate_size": 128}


@dataclass(frozen=True)
class Format:
    """How to draw a layer, to write it, and to declare it in config.json (None: not at all)."""

    draw: Callable[[np.random.Generator, tuple[int, int]], Linear]
    tensors: Callable[[Linear], dict[str, np.ndarray]]
    entry: dict[str, Any] | None


def awq(group_size: int) -> Format:
    return Format(
        lambda rng, shape: random_linear(rng, shape, group_size),
        awq_tensors,
        {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm"},
    )


def gptq(
    group_size: int, *, version: int = 1, symmetric: bool = False, act_order: bool = False
) -> Format:
    return Format(
        lambda rng, shape: random_linear(
            rng, shape, group_size, symmetric=symmetric, act_order=act_order
        ),
        lambda linear: gptq_tensors(linear, version),
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": group_size,
            "desc_act": act_order,
            "sym": symmetric,
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        },
    )


def compressed(group_size: int, *, symmetric: bool, act_order: bool = False) -> Format:
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group_size == -1 else "group",
        "group_size": None if group_size == -1 else group_size,
        "actorder": "group" if act_order else None,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return Format(
        lambda rng, shape: random_linear(
            rng, shape, group_size, symmetric=symmetric, act_order=act_order
        ),
        lambda linear: compressed_tensors(linear, symmetric=symmetric),
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
        },
    )


def qserve(group_size: int) -> Format:
    return Format(
        lambda rng, shape: random_qserve(rng, shape, group_size),
        lambda linear: qserve_tensors(linear, per_channel=group_size == -1),
        None,
    )


def write_quantized(
    path: Path, fmt: Format, family: str = "Llama", **overrides: object
) -> dict[str, Linear]:
    """A folder at ``path``, fp32 where it is not quantized; returns its layers by name."""
    write_tiny_model(path, family, **{**SHAPE, **overrides})
    rng = np.random.default_rng(0)
    tensors, linears = load_file(path / "model.safetensors"), {}
    for name in sorted(filter(is_decoder_linear, tensors)):
        stem = name.removesuffix(".weight")
        linears[stem] = fmt.draw(rng, tuple(tensors.pop(name).shape))
        parts = fmt.tensors(linears[stem])
        tensors |= {f"{stem}.{suffix}": as_tensor(part) for suffix, part in parts.items()}
    (path / "model.safetensors").unlink()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    if fmt.entry is not None:
        change_config(path, quantization_config=fmt.entry)
    return linears


def as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_twin(path: Path, quantized: Path, linears: dict[str, Linear]) -> Path:
    """The dense fp32 model that the folder ``quantized`` stands for."""
    tensors = load_file(quantized / "model.safetensors")
    twin = {name: t for name, t in tensors.items() if name.rpartition(".")[0] not in linears}
    twin |= {name: t for name, t in tensors.items() if name.endswith(".bias")}
    twin |= {f"{stem}.weight": linear.dequantize() for stem, linear in linears.items()}
    path.mkdir()
    save_file(twin, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantized / "config.json").read_text())
    config.pop("quantization_config", None)
    (path / "config.json").write_text(json.dumps(config))
    return path
