"""A checkpoint of random codes, of a shape's true sizes and in the format of ``qoq quantize``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qoq.engine.benchmarks.model_size import model_size
from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import DummyCheckpoint
from qoq.engine.memory import gib
from qoq.engine.models.config import parse_model_config
from qoq.engine.models.loader import DecoderLoader
from qoq.engine.precision import PRECISIONS
from qoq.quantize.checkpoint import CheckpointWriter, write_json
from qoq.quantize.quantization_config import DEFAULT_PRECISION, QuantizationConfig
from qoq.quantize.staging_folder import staging_folder
from qoq.server.dummy_model import dummy_tokenizer


def write_random_checkpoint(model: Path, out: Path, group_size: int) -> None:
    """``model`` is a folder with a ``config.json`` or a shape in ``configs/shapes``.

    Every layer has the codes of the first. ``out`` appears whole, and on the disk, or not at all.
    Raises ValueError where there is no such shape, OSError where ``out`` is taken or does not fit.
    """
    dummy = DummyCheckpoint(model, group_size, torch.device("cpu"))
    config = parse_model_config(dummy.config)
    quantization = QuantizationConfig(group_size=group_size, int8_lm_head=True)
    with staging_folder(out.absolute()) as folder:
        _check_room(model, folder, out)
        writer = CheckpointWriter(folder)
        source = _WrittenTensors(dummy, writer)
        _TensorReader(source, config, PRECISIONS[DEFAULT_PRECISION]).load(max_model_len=1)
        writer.finish()
        fields = {"tie_word_embeddings": False, "quantization_config": quantization.to_json()}
        write_json(folder / "config.json", dummy.config | fields)
        dummy_tokenizer(config.vocab_size).save(str(folder / "tokenizer.json"))


def _check_room(model: Path, folder: Path, out: Path) -> None:
    """A little less will do: on a GPU a group's scale and offset take four bytes, not two."""
    needed = model_size(EngineConfig(model=model, load_format="dummy")).total_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{out}: the checkpoint takes {gib(needed)} and {gib(free)} is free there; make room, "
            "or choose a folder on another disk with --out"
        )


class _WrittenTensors:
    """A source that writes what is read from it. Layers are copies of the first, quick to make."""

    def __init__(self, dummy: DummyCheckpoint, writer: CheckpointWriter) -> None:
        self.folder = dummy.folder
        self._dummy = dummy
        self._writer = writer
        self._first_layer: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._dummy

    def tensor(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        tensor = self._tensor(name, shape, dtype)
        self._writer.add({name: tensor})
        return tensor

    def end_layer(self) -> None:
        self._writer.end_layer()

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
        if ".layers." not in name:
            return self._dummy.tensor(name, *shape, dtype=dtype)
        first = re.sub(r"\.layers\.\d+\.", ".layers.0.", name)
        if first not in self._first_layer:
            self._first_layer[first] = self._dummy.tensor(first, *shape, dtype=dtype)
        return self._first_layer[first].clone()  # tensors of one file must not share memory


class _TensorReader(DecoderLoader[Any, Any, Any]):
    """Reads what an engine reads, and makes nothing of it."""

    source: _WrittenTensors

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16

    def norm(self, name: str, quantizes: bool) -> Any:
        self.gain(name, self.config.hidden_size)

    def attention(self, qkv_proj: Any, qk_norm: Any, window: Any) -> Any: ...

    def mlp(self, gate_up_proj: Any, down_proj: Any) -> Any:
        """The last of a layer."""
        self.source.end_layer()

    def fused(self, parent: str, outputs: dict[str, int], k: int) -> Any:
        for part, n in outputs.items():
            self.read_quantized(f"{parent}.{part}", n, k)

    def int8_head(self) -> Any:
        vocab, hidden = self.config.vocab_size, self.config.hidden_size
        self.source.tensor("lm_head.weight", vocab, hidden, dtype=torch.int8)
        self.source.tensor("lm_head.scales", vocab, dtype=torch.float32)
        self.source.end_layer()

    def dense_head(self, weight: Tensor) -> Any: ...
