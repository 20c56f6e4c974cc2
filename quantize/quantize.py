"""A 16-bit model in, a checkpoint out, layer by layer.

Holds one layer of the source and one shard of the result in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from qoq.quantize.checkpoint import CheckpointWriter, write_json
from qoq.quantize.quantization_config import QuantizationConfig
from qoq.quantize.rounding import Rounding
from qoq.quantize.sources.model_source import ModelSource, by_layer, open_source
from qoq.quantize.staging_folder import staging_folder


def quantize_model(
    source: str | Path,
    out: Path,
    *,
    precision: str = "w4a8kv4",
    group_size: int = 128,
    int8_lm_head: bool = False,
    progress: bool = True,
) -> Path:
    """Write the checkpoint ``out`` from a Hugging Face folder or a GGUF file; returns ``out``.

    A dense precision ("fp32", "bf16", "fp16") writes an ordinary Hugging Face folder. ``out``
    appears whole or not at all. Raises ModelSourceError for a model that cannot be quantized,
    FileExistsError where ``out`` is taken, OSError where the disk refuses.
    """
    config = QuantizationConfig(precision, group_size, int8_lm_head)
    model = open_source(Path(source))
    rounding = Rounding.plan(model, config)
    with staging_folder(out.absolute()) as folder:
        _write_config(model, config, folder)
        model.write_tokenizer(folder)
        _write_tensors(rounding, folder, progress)
    return out


def _write_config(model: ModelSource, config: QuantizationConfig, folder: Path) -> None:
    fields: dict[str, Any] = dict(model.config)
    if config.is_dense:
        fields |= {"dtype": config.dense_dtype, "torch_dtype": config.dense_dtype}
    else:
        fields["quantization_config"] = config.to_json()
    write_json(folder / "config.json", fields)
    if model.generation_config:
        write_json(folder / "generation_config.json", model.generation_config)


def _write_tensors(rounding: Rounding, folder: Path, progress: bool) -> None:
    writer = CheckpointWriter(folder)
    layers = list(by_layer(rounding.model.names))
    label = rounding.config.label
    with _workers() as workers:
        for names in tqdm(layers, desc=label, unit="layer", disable=not progress):
            for tensors in workers.map(rounding.encode, names):
                writer.add(tensors)
            writer.end_layer()
    if rounding.config.int8_lm_head:
        writer.add(rounding.encode_int8_head())
    writer.finish()


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A thread a tensor instead of torch's threads within each small operation: those wait for
    each other thousands of times, and each wait costs milliseconds on a machine that is busy.
    """
    num_cores = torch.get_num_threads()
    num_workers = min(num_cores, 8)
    try:
        with ThreadPoolExecutor(
            num_workers, initializer=torch.set_num_threads, initargs=(num_cores // num_workers,)
        ) as workers:
            yield workers
    finally:
        torch.set_num_threads(num_cores)  # the workers changed the default of later threads
