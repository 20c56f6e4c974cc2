"""MODEL as the user gives it to a checkpoint folder that the engine loads.

A model that is not one yet is quantized on first use; the result is kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from qoq.engine.precision import PRECISIONS, stored_precision
from qoq.quantize.errors import ModelSourceError
from qoq.quantize.import_checkpoint import import_checkpoint, imported_config, open_codes
from qoq.quantize.preset import find_preset, model_presets
from qoq.quantize.quantization_config import (
    DEFAULT_PRECISION,
    FORMAT_VERSION,
    QuantizationConfig,
)
from qoq.quantize.quantize import quantize_model
from qoq.quantize.recipe import Recipe
from qoq.quantize.recipe_file import choose_recipe
from qoq.quantize.sources.hub import fetch_from_hub, is_hub_id
from qoq.quantize.sources.json_file import read_json

logger = logging.getLogger(__name__)


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """``QOQ_CACHE``, or ``~/.cache/qoq``."""
    return Path(environ.get("QOQ_CACHE") or "~/.cache/qoq").expanduser()


def resolve_model(
    model: str,
    *,
    precision: str | None,
    recipe: str | None = None,
    group_size: int | None = None,
    cache_dir: Path,
    progress: bool,
) -> Path:
    """The checkpoint folder of ``model``.

    ``model`` is a preset's name, a checkpoint, a Hugging Face folder or hub id, or a GGUF file.
    ``precision`` None keeps a checkpoint's own and quantizes anything else to w4a8kv4; a comparison
    gets the checkpoint that it runs on. ``recipe`` and ``group_size`` say how a model is quantized
    on first use; None are the defaults. Raises ModelSourceError with a sentence that says what to
    change, OSError where the disk refuses.
    """
    precision = None if precision is None else stored_precision(precision)
    source = locate(model, cache_dir)
    if source.is_dir():
        config = read_json(source / "config.json")
        if (config.get("quantization_config") or {}).get("quant_method") == "qoq":
            _check_precision(source, config["quantization_config"], precision)
            return source
    precision = precision or DEFAULT_PRECISION
    codes = open_codes(source)
    if codes is not None and PRECISIONS[precision].weight_bits == 4:
        imported = imported_config(codes)
        write = partial(import_checkpoint, source, progress=progress)
        return _cached(source, imported, None, cache_dir, write)
    chosen = choose_recipe(recipe, precision, group_size)
    wanted = chosen.quantization_config(precision)
    if wanted.is_dense:
        chosen = Recipe()
        if codes is None and source.is_dir():
            return source
    write = partial(quantize_model, source, precision=precision, recipe=chosen, progress=progress)
    return _cached(source, wanted, chosen, cache_dir, write)


def locate(model: str, cache_dir: Path) -> Path:
    """A local folder or GGUF file for ``model``, fetched if need be."""
    path = Path(model).expanduser()
    if path.exists():
        return path.resolve()
    preset = find_preset(model)
    if preset is not None:
        return preset.fetch(cache_dir)
    if is_hub_id(model) and path.suffix != ".gguf":
        return fetch_from_hub(model)
    names = ", ".join(preset.name for preset in model_presets())
    raise ModelSourceError(f"{model!r} is neither a path that exists nor a preset ({names})")


def _check_precision(source: Path, entry: Mapping[str, object], precision: str | None) -> None:
    own = QuantizationConfig.from_json(entry).precision
    if precision not in (None, own):
        raise ModelSourceError(
            f"{source} is quantized to {own}, not {precision}; leave the precision out, "
            "or give the 16-bit model it was made from"
        )


def _cached(
    source: Path,
    wanted: QuantizationConfig,
    recipe: Recipe | None,
    cache_dir: Path,
    write: Callable[[Path], Path],
) -> Path:
    name = source.name.removesuffix(".gguf")
    out = cache_dir / "checkpoints" / f"{name}-{wanted.label}-{_digest(source, recipe)}"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    logger.warning("quantizing %s to %s, once, into %s", source, wanted.label, out)
    if recipe is not None and recipe.needs_calibration:
        logger.warning("this takes minutes; --recipe rtn takes seconds and loses more")
    try:
        return write(out)
    except FileExistsError:
        return out  # another process wrote it while we waited


def _digest(source: Path, recipe: Recipe | None) -> str:
    """Changes with the path, size or time of any file of the model, with the recipe, its seed and
    its calibration, and with our format.
    """
    settings = None if recipe is None else recipe.to_json()
    identity = [FORMAT_VERSION, settings, *_identities(source)]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def _identities(source: Path) -> Iterator[tuple[str, int, int]]:
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    for file in files:
        if file.suffix in (".json", ".jinja", ".model", ".safetensors", ".bin", ".gguf"):
            stat = file.stat()
            yield str(file), stat.st_size, stat.st_mtime_ns
