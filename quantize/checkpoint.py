"""Writes a checkpoint's tensors, a shard at a time, and its JSON files.

Holds one shard of finished tensors in memory; a model that fits one shard is a single file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

REPORT_NAME = "quantization_report.json"
SHARD_BYTES = 400_000_000  # about one decoder layer of an 8B model in bf16


class CheckpointWriter:
    """Call ``add`` with some tensors by name, ``end_layer`` between layers, ``finish`` once."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._total_bytes = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._pending[name] = tensor.contiguous()
            self._total_bytes += tensor.nbytes

    def end_layer(self) -> None:
        """Write what is pending once it fills a shard."""
        if sum(tensor.nbytes for tensor in self._pending.values()) >= self._shard_bytes:
            self._flush()

    def finish(self) -> None:
        """Write the rest, give the shards their final names, and index them if several."""
        if self._pending:
            self._flush()
        if len(self._shards) == 1:
            self._shard_path(0).rename(self._folder / "model.safetensors")
        else:
            self._write_index()

    def _flush(self) -> None:
        path = self._shard_path(len(self._shards))
        path.touch()
        mode = path.stat().st_mode  # save_file would leave a file that only its owner can read
        try:
            save_file(self._pending, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
        path.chmod(mode)
        self._shards.append(list(self._pending))
        self._pending = {}

    def _shard_path(self, index: int) -> Path:
        return self._folder / f"shard-{index}.safetensors"

    def _write_index(self) -> None:
        weight_map: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            file_name = f"model-{i + 1:05}-of-{len(self._shards):05}.safetensors"
            self._shard_path(i).rename(self._folder / file_name)
            weight_map |= dict.fromkeys(names, file_name)
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        write_json(self._folder / "model.safetensors.index.json", index)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
