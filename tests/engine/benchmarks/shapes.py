"""A model of random weights that a CPU runs in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

from qoq.engine.config import EngineConfig

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 96,
    "max_position_embeddings": 512,
}
# Keys and values of one head of 64 elements: 64 bytes of codes and 8 of scales a token and layer.
BLOCK_BYTES = 64 * 72 * 2


def write_shape(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    return folder


def on_cpu(model: Path, num_blocks: int = 100, **settings: object) -> EngineConfig:
    shared = {"device": "cpu", "load_format": "dummy", "num_threads": 1}
    cache = {"kv_cache_bytes": num_blocks * BLOCK_BYTES}
    return EngineConfig(**{"model": model} | shared | cache | settings)
