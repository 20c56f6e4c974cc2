"""Tiny random Hugging Face folders for tests, made by transformers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}


def write_tiny_hf(
    path: Path,
    family: str = "Llama",
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str = "1GB",
    **overrides: object,
) -> Path:
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **overrides})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype)
    model.save_pretrained(path, max_shard_size=max_shard_size)
    return path
