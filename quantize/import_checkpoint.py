"""Another quantizer's 4-bit checkpoint in, ours out, its weights final: nothing is calibrated.

What our format holds exactly is stored as it was found. The rest is converted, and the relative
error of each linear layer goes to the log and into ``quantization_report.json``.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from qoq.quantize.checkpoint import REPORT_NAME, CheckpointWriter, write_json
from qoq.quantize.conversion import Conversion, convert, round_dense
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.quantization_config import DEFAULT_PRECISION, QuantizationConfig
from qoq.quantize.sources.model_source import by_layer, is_decoder_linear, open_source
from qoq.quantize.sources.quantized_source import QuantizedSource
from qoq.quantize.staging_folder import staging_folder
from qoq.quantize.weights.group_size import fit_group_sizes

logger = logging.getLogger(__name__)


def open_codes(source: Path) -> QuantizedSource | None:
    """The model at ``source`` if another quantizer wrote it. Raises ModelSourceError where its
    codes cannot be imported, and for a broken model.
    """
    model = open_source(source) if source.is_dir() else None
    return model if isinstance(model, QuantizedSource) else None


def imported_config(model: QuantizedSource) -> QuantizationConfig:
    """What an import holds: the group size is the model's own, and the lm_head stays in 16 bits."""
    return QuantizationConfig(DEFAULT_PRECISION, model.group_size)


def import_checkpoint(source: Path, out: Path, *, progress: bool = True) -> Path:
    """Write the checkpoint ``out`` from the folder of another quantizer; returns ``out``.

    ``out`` appears whole or not at all. Raises ModelSourceError for a tensor that cannot be
    converted, FileExistsError where ``out`` is taken, OSError where the disk refuses.
    """
    model = open_codes(source)
    if model is None:
        raise ModelSourceError(f"{source} holds no codes of another quantizer; quantize it instead")
    config = imported_config(model)
    with staging_folder(out.absolute()) as folder:
        write_json(folder / "config.json", model.config | {"quantization_config": config.to_json()})
        if model.generation_config:
            write_json(folder / "generation_config.json", model.generation_config)
        model.write_tokenizer(folder)
        layers = _write_tensors(model, config, folder, progress)
        write_json(folder / REPORT_NAME, {"imported_from": model.method, "layers": layers})
    _log_summary(model.method, layers)
    return out


def _write_tensors(
    model: QuantizedSource, config: QuantizationConfig, folder: Path, progress: bool
) -> dict[str, dict[str, Any]]:
    """The report: how each linear layer was converted, and its relative error."""
    writer = CheckpointWriter(folder)
    report: dict[str, dict[str, Any]] = {}
    layers = list(by_layer(model.names))
    desc = f"importing as {config.label}"
    for names in tqdm(layers, desc=desc, unit="layer", disable=not progress):
        for name in names:
            if is_decoder_linear(name):
                stem = name.removesuffix(".weight")
                report[stem] = _write_linear(writer, stem, _convert(model, name, config))
            else:
                writer.add({name: _in_own_dtype(model, name)})
        writer.end_layer()
    writer.finish()
    return report


def _write_linear(writer: CheckpointWriter, stem: str, conversion: Conversion) -> dict[str, Any]:
    stored = conversion.weight.tensors()
    writer.add({f"{stem}.{suffix}": tensor for suffix, tensor in stored.items()})
    logger.info("%s: %s, relative error %.4f", stem, conversion.method, conversion.error)
    return {"method": conversion.method, "relative_error": conversion.error}


def _convert(model: QuantizedSource, name: str, config: QuantizationConfig) -> Conversion:
    weight = model.quantized_weight(name)
    if weight is None:
        return round_dense(
            _finite(name, model.load(name)).float(), _group_size(model, name, config)
        )
    try:
        return convert(weight, config.group_size)
    except ValueError as error:
        raise ModelSourceError(f"{name}: {error}; give the 16-bit model instead") from error


def _group_size(model: QuantizedSource, name: str, config: QuantizationConfig) -> int:
    if not config.has_groups:
        return config.group_size
    return fit_group_sizes({name: model.shape(name)}, config.group_size)[name]


def _in_own_dtype(model: QuantizedSource, name: str) -> Tensor:
    return _finite(name, model.load(name).to(model.dtype(name)))


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise ModelSourceError(f"tensor {name} holds NaN or infinite values")
    return tensor


def _log_summary(method: str, layers: dict[str, dict[str, Any]]) -> None:
    errors = {name: layer["relative_error"] for name, layer in layers.items()}
    worst = max(errors, key=lambda name: errors[name])
    counts = Counter(layer["method"] for layer in layers.values())
    logger.warning(
        "imported %d linear layers from %s (%s); relative error of the weights %.2f %% on average, "
        "%.2f %% at most (%s)",
        len(layers),
        method,
        ", ".join(f"{count} by {how}" for how, count in counts.items()),
        100 * sum(errors.values()) / len(errors),
        100 * errors[worst],
        worst,
    )
    if counts["rounding"]:
        logger.warning(
            "%d layers had groups out of order (act-order) or no codes, and were rounded to new "
            "ones; quantizing the 16-bit model would lose less",
            counts["rounding"],
        )
