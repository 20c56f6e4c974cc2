"""Where a decoder's tensors come from: a checkpoint, or random numbers of its shapes."""

from __future__ import annotations

import torch

from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.device_checkpoint import DeviceCheckpoint
from qoq.engine.dummy_checkpoint import PER_CHANNEL, DummyCheckpoint


def open_checkpoint(config: EngineConfig, device: torch.device) -> Checkpoint | DummyCheckpoint:
    """Its tensors are in host memory or, where ``device`` is a GPU, there.

    Raises CheckpointError where there is none.
    """
    if config.load_format == "auto":
        is_gpu = device.type == "cuda"
        return DeviceCheckpoint(config.model, device) if is_gpu else Checkpoint(config.model)
    group_size = PER_CHANNEL if config.load_format == "dummy-per-channel" else 128
    return DummyCheckpoint(config.model, group_size, device)
