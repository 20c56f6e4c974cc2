"""Where a decoder's tensors come from: a checkpoint, or random numbers of its shapes."""

from __future__ import annotations

import torch

from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import PER_CHANNEL, DummyCheckpoint


def open_checkpoint(config: EngineConfig, device: torch.device) -> Checkpoint | DummyCheckpoint:
    """Raises CheckpointError where there is none."""
    if config.load_format == "auto":
        return Checkpoint(config.model)
    group_size = PER_CHANNEL if config.load_format == "dummy-per-channel" else 128
    return DummyCheckpoint(config.model, group_size, device)
