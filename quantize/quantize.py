"""A 16-bit model in, a checkpoint out, by a recipe."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from qoq.engine.precision import PRECISIONS
from qoq.quantize.calibration.self_sampling import sample_windows
from qoq.quantize.calibration.text import CalibrationText
from qoq.quantize.calibration.token_windows import TokenWindows
from qoq.quantize.checkpoint import REPORT_NAME, CheckpointWriter, write_json
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.layer_quantizer import LayerQuantizer
from qoq.quantize.quantization_config import DEFAULT_PRECISION, QuantizationConfig
from qoq.quantize.recipe import ROUNDING, CalibrationSpec, Recipe
from qoq.quantize.sources.model_source import (
    ModelSource,
    is_decoder_linear,
    open_source,
    read_model_config,
)
from qoq.quantize.staging_folder import staging_folder
from qoq.quantize.stored_model import StoredModel
from qoq.quantize.weights.group_size import fit_group_sizes

# What text is sampled from: quick to make and to run, and close to the 16-bit model.
SAMPLED_PRECISION = "w8a8kv8"

logger = logging.getLogger(__name__)


def quantize_model(
    source: str | Path,
    out: Path,
    *,
    precision: str = DEFAULT_PRECISION,
    recipe: Recipe = ROUNDING,
    calib: str | TokenWindows | None = None,
    progress: bool = True,
) -> Path:
    """Write the checkpoint ``out`` from a Hugging Face folder or a GGUF file; returns ``out``.

    ``calib`` names the text to calibrate on, or is cut already; None samples it from the model. A
    dense precision ("fp32", "bf16", "fp16") writes an ordinary Hugging Face folder, transformed but
    not rounded. ``out`` appears whole or not at all. Raises ModelSourceError for a model or a text
    that cannot be used, FileExistsError where ``out`` is taken, OSError where the disk refuses.
    """
    path = Path(source)
    text = _open_text(calib, recipe)
    config = recipe.quantization_config(precision)
    model = open_source(path)
    quantizer = LayerQuantizer(
        read_model_config(path, model.config),
        recipe,
        PRECISIONS[precision],
        _group_sizes(model, config),
    )
    with staging_folder(out.absolute()) as folder:
        model.write_tokenizer(folder)
        windows = None
        if recipe.needs_calibration:
            windows = _windows(text, path, folder, recipe.calibration, progress)
        _write_config(model, config, recipe, windows, folder)
        stored = StoredModel(model, config, recipe, quantizer)
        layers = stored.write(CheckpointWriter(folder), windows, progress)
        write_json(folder / REPORT_NAME, _report(config, recipe, windows, layers))
    return out


def sample_model(source: Path, spec: CalibrationSpec, folder: Path, progress: bool) -> TokenWindows:
    """``folder`` holds for a while the checkpoint that is sampled from, a byte a weight."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        checkpoint = quantize_model(
            source,
            Path(scratch) / SAMPLED_PRECISION,
            precision=SAMPLED_PRECISION,
            recipe=Recipe(int8_lm_head=True),
            progress=False,
        )
        return sample_windows(checkpoint, spec, progress=progress)


def _group_sizes(model: ModelSource, config: QuantizationConfig) -> dict[str, int]:
    """By name within a layer. Fails before any work is done where a shape fits no group size."""
    if not config.has_groups:
        return {}
    shapes = {name: model.shape(name) for name in model.names if is_decoder_linear(name)}
    sizes = fit_group_sizes(shapes, config.group_size)
    return {name.split(".", maxsplit=3)[3]: size for name, size in sizes.items()}


def _open_text(
    calib: str | TokenWindows | None, recipe: Recipe
) -> CalibrationText | TokenWindows | None:
    """Read before any work is done."""
    if calib is not None and not recipe.needs_calibration:
        raise ModelSourceError("the recipe does not calibrate; leave --calib out")
    return CalibrationText.read(calib) if isinstance(calib, str) else calib


def _windows(
    text: CalibrationText | TokenWindows | None,
    source: Path,
    folder: Path,
    spec: CalibrationSpec,
    progress: bool,
) -> TokenWindows:
    """``folder`` holds the tokenizer."""
    match text:
        case TokenWindows():
            windows = text
        case CalibrationText():
            windows = text.windows(folder, spec)
        case None:
            windows = sample_model(source, spec, folder, progress)
    logger.warning("calibrating on %d samples of %d tokens, %s", *windows.ids.shape, windows.origin)
    return windows


def _write_config(
    model: ModelSource,
    config: QuantizationConfig,
    recipe: Recipe,
    windows: TokenWindows | None,
    folder: Path,
) -> None:
    fields: dict[str, Any] = dict(model.config)
    if recipe.fold_norms:
        fields["tie_word_embeddings"] = False
    if config.is_dense:
        fields |= {"dtype": config.dense_dtype, "torch_dtype": config.dense_dtype}
    else:
        fields["quantization_config"] = config.to_json() | {"techniques": recipe.techniques}
        if windows is not None:
            fields["quantization_config"]["calibration_sha256"] = windows.sha256
    write_json(folder / "config.json", fields)
    if model.generation_config:
        write_json(folder / "generation_config.json", model.generation_config)


def _report(
    config: QuantizationConfig,
    recipe: Recipe,
    windows: TokenWindows | None,
    layers: dict[str, dict[str, float]],
) -> dict[str, Any]:
    return {
        "precision": config.precision,
        "recipe": recipe.to_json(),
        "calibration": None if windows is None else windows.to_json(),
        "relative_error_of": "weights" if windows is None else "outputs on the calibration samples",
        "layers": layers,
    }
