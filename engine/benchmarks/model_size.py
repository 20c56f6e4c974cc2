"""What a model's weights and cache take, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qoq.engine.build import runs_on_gpu
from qoq.engine.checkpoint import Checkpoint
from qoq.engine.config import EngineConfig
from qoq.engine.dummy_checkpoint import DummyCheckpoint
from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.engine.models.loader import kv_format
from qoq.engine.open_checkpoint import open_checkpoint
from qoq.engine.precision import Precision

Shape = tuple[int, int]  # N, K


@dataclass(frozen=True, slots=True)
class ModelSize:
    """``layer`` are a layer's GEMMs, ``weight_bytes`` is of one weight with its group's scale.

    ``block_bytes`` is of a KV block of ``block_size`` tokens in one layer, ``windows`` the sliding
    window of each layer.
    """

    layer: tuple[Shape, ...]
    weight_bytes: float
    head: Shape
    head_bytes: float
    embedding_bytes: int
    windows: tuple[int | None, ...]
    block_bytes: int
    block_size: int
    max_position_embeddings: int

    @property
    def total_bytes(self) -> int:
        """Of all weights."""
        per_layer = sum(n * k for n, k in self.layer) * self.weight_bytes
        head = self.head[0] * self.head[1] * self.head_bytes
        return int(len(self.windows) * per_layer + head) + self.embedding_bytes

    def kv_bytes(self, num_blocks: int) -> int:
        """Of ``num_blocks`` in all layers."""
        return num_blocks * self.block_bytes * len(self.windows)

    def kv_bytes_read(self, context: float) -> float:
        """By one request's decode step, over all layers."""
        tokens = sum(min(context, window or context) for window in self.windows)
        return tokens * self.block_bytes / self.block_size


def model_size(config: EngineConfig) -> ModelSize:
    """Loads no weight. Raises CheckpointError or ValueError as the engine would."""
    checkpoint = open_checkpoint(config, torch.device("cpu"))
    model = parse_model_config(checkpoint.config)
    precision = checkpoint.precision_for(config.precision)
    fmt = kv_format(model, precision)
    dense_bytes = 2 if runs_on_gpu(config) else 4
    return ModelSize(
        layer=_layer(model),
        weight_bytes=_weight_bytes(checkpoint, precision),
        head=(model.vocab_size, model.hidden_size),
        head_bytes=1 if "lm_head.scales" in checkpoint else dense_bytes,
        embedding_bytes=2 * model.vocab_size * model.hidden_size,
        windows=model.windows,
        block_bytes=fmt.block_bytes,
        block_size=fmt.block_size,
        max_position_embeddings=model.max_position_embeddings,
    )


def _layer(model: ModelConfig) -> tuple[Shape, ...]:
    hidden, inner = model.hidden_size, model.intermediate_size
    q, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    return ((q + 2 * kv, hidden), (hidden, q), (2 * inner, hidden), (hidden, inner))


def _weight_bytes(checkpoint: Checkpoint | DummyCheckpoint, precision: Precision) -> float:
    """4-bit groups have four bytes of scale and offset on the GPU."""
    if precision.weight_bits is None:
        return float(getattr(torch, precision.dtype).itemsize)
    is_per_channel = "model.layers.0.self_attn.q_proj.zeros" in checkpoint
    if precision.weight_bits == 8 or is_per_channel:
        return precision.weight_bits / 8
    return 0.5 + 4 / _group_size(checkpoint)


def _group_size(checkpoint: Checkpoint | DummyCheckpoint) -> int:
    size: int = checkpoint.config.get("quantization_config", {}).get("group_size", 128)
    return size
