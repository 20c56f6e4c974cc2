"""A checkpoint whose tensors are read onto a device: the host holds ``READERS`` pieces of it.

What is mapped into memory comes from a disk a few pages at a time, for which one thread waits, and
counts as the process's memory.
"""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qoq.engine.checkpoint import Checkpoint, CheckpointError

READERS = 8
PIECE_BYTES = 4 * 2**20
DTYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where ``path`` has a tensor, as its header says; ``offset`` in bytes of the file."""

    path: Path
    offset: int
    dtype: str
    shape: list[int]


class DeviceCheckpoint(Checkpoint):
    """Raises CheckpointError as ``Checkpoint`` does."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(folder)
        self._device = device
        self._stored = {
            name: tensor
            for path in sorted(folder.glob("*.safetensors"))
            for name, tensor in _read_header(path)
        }
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="weights")
        self._pieces: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        is_pinned = device.type == "cuda"
        for piece in torch.empty(READERS, PIECE_BYTES, dtype=torch.uint8, pin_memory=is_pinned):
            self._pieces.put(piece)

    def _read(self, name: str) -> Tensor:
        stored = self._stored[name]
        if stored.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.folder}: tensor {name} is {stored.dtype}, expected one of "
                f"{', '.join(DTYPES)}"
            )
        tensor = torch.empty(stored.shape, dtype=DTYPES[stored.dtype], device=self._device)
        if tensor.numel():
            self._fill(tensor.view(-1).view(torch.uint8), stored)
        return tensor

    def _fill(self, target: Tensor, stored: StoredTensor) -> None:
        with stored.path.open("rb", buffering=0) as file:

            def read(start: int) -> None:
                part = target[start : start + PIECE_BYTES]
                self._read_piece(part, file.fileno(), stored.offset + start)

            for _ in self._readers.map(read, range(0, len(target), PIECE_BYTES)):
                pass

    def _read_piece(self, part: Tensor, file: int, offset: int) -> None:
        """In one of ``READERS`` threads; the copy is over when it returns."""
        piece = self._pieces.get()
        try:
            memory: Any = piece.numpy()[: len(part)]  # shared, and numpy's types hide the buffer
            done = 0
            while done < len(part):
                count = os.preadv(file, [memory[done:]], offset + done)
                if not count:
                    raise OSError("the file ends within it")
                done += count
            part.copy_(piece[: len(part)])
        finally:
            self._pieces.put(piece)


def _read_header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Of a file that safetensors opened: eight bytes of length, JSON, then the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        offset = 8 + length + entry["data_offsets"][0]
        yield name, StoredTensor(path, offset, entry["dtype"], entry["shape"])
