"""Tiny random Hugging Face models whose every parameter matters.

transformers starts norms at one, biases at zero and weights so small that attention is nearly
uniform: with those, a wrong gain, a lost bias or a wrong position would hardly show.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
# Queries and keys get entries around 1.6, so scores spread over several units.
WEIGHT_STD = 0.2


def write_tiny_model(path: Path, family: str = "Llama", **overrides: object) -> Path:
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **overrides})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, WEIGHT_STD)
    model.save_pretrained(path)
    return path
