"""Unquantized logits equal transformers': the decoder is the model, not something like it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from .manual_steps import make_runner, random_tokens, run_chunks
from .tiny_model import write_tiny_model

# fp32 rounds at 6e-8; a few dozen operations in other orders stay below a thousand roundings.
TOLERANCE = 1e-4

# Long enough for three partitions of 128 tokens and five blocks of 64; then three decode steps.
CHUNKS = (297, 1, 1, 1)

ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}

MODELS = {
    **{
        f"llama-{kind}": ("Llama", {"rope_parameters": {"rope_theta": 1000.0, **rope}})
        for kind, rope in ROPES.items()
    },
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-one-kv-head-each": ("Llama", {"num_key_value_heads": 4}),
    "mistral-window": ("Mistral", {"sliding_window": 70}),
    "mistral-no-window": ("Mistral", {"sliding_window": None}),
    "qwen2-bias": ("Qwen2", {}),
    "qwen2-window-in-last-layer": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 70, "max_window_layers": 1},
    ),
    "qwen3-qk-norm": ("Qwen3", {"head_dim": 32}),
}


def hugging_face_logits(folder: Path, tokens: list[int]) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal(name: str, tmp_path: Path):
    """Fails for a wrong frequency, window, bias, norm, head order or tied head."""
    family, overrides = MODELS[name]
    folder = write_tiny_model(tmp_path / "model", family, **overrides)
    tokens = random_tokens(sum(CHUNKS), vocab_size=96)
    runner = make_runner(folder, precision="fp32", num_threads=1)
    actual = run_chunks(runner, tokens, CHUNKS)
    assert relative_error(actual, hugging_face_logits(folder, tokens)) < TOLERANCE


@pytest.mark.slow
def test_logits_of_smollm2_equal(smollm2_dense: Path):
    tokens = random_tokens(150, vocab_size=49152)
    actual = run_chunks(make_runner(smollm2_dense), tokens, (100, 49, 1))
    assert relative_error(actual, hugging_face_logits(smollm2_dense, tokens)) < TOLERANCE
