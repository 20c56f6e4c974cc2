"""A tiny decoder in pieces: transforms change them, and the engine runs what they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import save_file
from torch import Tensor

from qoq.engine.models.config import ModelConfig, parse_model_config
from qoq.quantize.checkpoint import write_json
from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.sources.hf_source import HFSource

from ...engine.manual_steps import make_runner, random_tokens, run_chunks
from ...engine.tiny_model import write_tiny_model

# fp32 rounds at 6e-8; a few dozen operations in other orders stay below a thousand roundings.
TOLERANCE = 1e-4
TOKENS = random_tokens(100, vocab_size=96)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-one-kv-head-each": ("Llama", {"num_key_value_heads": 4}),
    "llama-tied-llama3-rope": (
        "Llama",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_theta": 1000.0,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    # Sizes 96 and 24 get Paley's matrix of order 12, and only that one differs from its transpose.
    "llama-asymmetric-rotation": ("Llama", {"hidden_size": 96, "head_dim": 24}),
    "mistral-window": ("Mistral", {"sliding_window": 70}),
    "qwen2-bias": ("Qwen2", {}),
    "qwen3-qk-norm": ("Qwen3", {"head_dim": 32}),
}


@dataclass(slots=True)
class TinyDecoder:
    """``embedding`` and ``head`` fp32 [V, hidden], apart even where the model ties them;
    ``final_gain`` fp32 [hidden].
    """

    fields: dict[str, Any]
    config: ModelConfig
    layers: list[LayerWeights]
    embedding: Tensor
    final_gain: Tensor
    head: Tensor

    @classmethod
    def make(cls, folder: Path, family: str) -> Self:
        """``family`` is a key of ``FAMILIES``; writes the model into ``folder``."""
        name, overrides = FAMILIES[family]
        source = HFSource(write_tiny_model(folder, name, **overrides))
        config = parse_model_config(source.config)
        embedding = source.load("model.embed_tokens.weight")
        return cls(
            fields=source.config | {"tie_word_embeddings": False},
            config=config,
            layers=[LayerWeights.load(source, config, i) for i in range(config.num_layers)],
            embedding=embedding,
            final_gain=source.load("model.norm.weight"),
            head=embedding if config.tie_word_embeddings else source.load("lm_head.weight"),
        )

    def tensors(self) -> dict[str, Tensor]:
        """By their names in a checkpoint."""
        in_layers = {
            layer.prefix + name: tensor
            for layer in self.layers
            for name, tensor in layer.tensors.items()
        }
        return in_layers | {
            "model.embed_tokens.weight": self.embedding,
            "model.norm.weight": self.final_gain,
            "lm_head.weight": self.head,
        }

    def logits(self, folder: Path) -> Tensor:
        """Fp32 [100, V] by the engine, of a prefill of 97 tokens and three decode steps."""
        return engine_logits(self.fields, self.tensors(), folder)


def engine_logits(fields: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Tensor:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", fields)
    contiguous = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors")
    runner = make_runner(folder, precision="fp32", num_threads=1)
    return run_chunks(runner, TOKENS, (len(TOKENS) - 3, 1, 1, 1))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()
