"""A GGUF file's metadata as the ``config.json`` and ``generation_config.json`` it came from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qoq.quantize.errors import ModelSourceError
from qoq.quantize.sources.gguf_file import GGUFFile
from qoq.quantize.sources.gguf_names import ROPE_FACTORS

HF_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Tokens that end a turn or a document wherever they occur, whatever the file names as its EOS.
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
CONTROL = 3  # tokenizer.ggml.token_type


def read_architecture(file: GGUFFile) -> str:
    """llama.cpp's name of the architecture; refuses what the engine cannot run."""
    architecture: str = file.require("general.architecture")
    if architecture not in HF_ARCHITECTURES:
        raise ModelSourceError(
            f"{file.path}: GGUF architecture {architecture!r} is not supported; "
            f"supported are {', '.join(HF_ARCHITECTURES)}"
        )
    if file.metadata(f"{architecture}.expert_count", 0):
        raise ModelSourceError(f"{file.path} is a mixture of experts, which is not supported")
    return architecture


def read_config(file: GGUFFile) -> dict[str, Any]:
    """The fields of ``config.json``."""
    architecture = read_architecture(file)
    hidden_size = file.require(f"{architecture}.embedding_length")
    num_heads = file.require(f"{architecture}.attention.head_count")
    head_dim = file.metadata(f"{architecture}.attention.key_length", hidden_size // num_heads)
    _check_rotary(file, architecture, head_dim)
    return {
        "architectures": [HF_ARCHITECTURES[architecture]],
        "model_type": architecture,
        "hidden_size": hidden_size,
        "intermediate_size": file.require(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": file.require(f"{architecture}.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.metadata(f"{architecture}.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "vocab_size": file.shape("token_embd.weight")[0],
        "max_position_embeddings": file.require(f"{architecture}.context_length"),
        "rms_norm_eps": file.require(f"{architecture}.attention.layer_norm_rms_epsilon"),
        "attention_bias": "blk.0.attn_q.bias" in file,
        "tie_word_embeddings": "output.weight" not in file,
        "bos_token_id": file.metadata("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata("tokenizer.ggml.eos_token_id"),
        "pad_token_id": file.metadata("tokenizer.ggml.padding_token_id"),
        **_rope(file, architecture, head_dim),
    }


def read_generation_config(file: GGUFFile) -> dict[str, Any]:
    """``eos_token_id`` is every token that ends a turn, the file's own EOS first."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    ends = [file.metadata(f"tokenizer.ggml.{key}") for key in keys]
    tokens = file.metadata("tokenizer.ggml.tokens", [])
    types = file.metadata("tokenizer.ggml.token_type", [])
    control = {token: i for i, token in enumerate(tokens) if types[i : i + 1] == [CONTROL]}
    ends += [control.get(token) for token in END_TOKENS]
    return {
        "bos_token_id": file.metadata("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(dict.fromkeys(end for end in ends if end is not None)),
        "pad_token_id": file.metadata("tokenizer.ggml.padding_token_id"),
    }


def _check_rotary(file: GGUFFile, architecture: str, head_dim: int) -> None:
    rotated = file.metadata(f"{architecture}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ModelSourceError(
            f"{file.path} rotates {rotated} of {head_dim} head dimensions, which is not supported"
        )


def _rope(file: GGUFFile, architecture: str, head_dim: int) -> dict[str, Any]:
    """The same facts twice: as transformers 5 writes them and as every older reader expects."""
    theta = file.metadata(f"{architecture}.rope.freq_base", 10000.0)
    if ROPE_FACTORS in file:
        scaling = _llama3_scaling(file.load(ROPE_FACTORS), theta, head_dim, file)
    else:
        scaling = _declared_scaling(file, architecture)
    rope = {
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling},
    }
    return {**rope, "rope_scaling": scaling} if scaling else rope


def _declared_scaling(file: GGUFFile, architecture: str) -> dict[str, Any]:
    prefix = f"{architecture}.rope.scaling"
    kind = file.metadata(f"{prefix}.type", "none")
    factor = file.metadata(f"{prefix}.factor", 1.0)
    if kind == "none" or factor == 1.0:
        return {}
    if kind not in ("linear", "yarn"):
        raise ModelSourceError(f"{file.path}: RoPE scaling {kind!r} is not supported")
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "linear":
        return scaling
    original = file.require(f"{prefix}.original_context_length")
    attention = file.metadata(f"{prefix}.attn_factor", 1.0) * (0.1 * math.log(factor) + 1.0)
    return {
        **scaling,
        "original_max_position_embeddings": original,
        "attention_factor": attention,
    }


def _llama3_scaling(factors: Tensor, theta: float, head_dim: int, file: GGUFFile) -> dict[str, Any]:
    """Llama 3.1's parameters from the divisors of the frequencies that the file keeps instead.

    Only the factor differs between the published models (8, or 32 for 3.2), and it is the largest
    divisor; whether the other three are as published is checked by computing all divisors again.
    """
    factor = factors.max().item()
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if factor == 1.0:
        return {}
    expected = llama3_divisors(theta, head_dim, scaling)
    if expected.shape != factors.shape or not torch.allclose(factors, expected, rtol=1e-4):
        raise ModelSourceError(
            f"{file.path}: {ROPE_FACTORS} is not Llama 3.1's scaling of the frequencies; "
            "use the Hugging Face folder of this model"
        )
    return scaling


def llama3_divisors(theta: float, head_dim: int, scaling: dict[str, Any]) -> Tensor:
    """What Llama 3.1 divides each rotary frequency by, float32 [head_dim / 2]."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    divisors: Tensor = 1 / ((1 - blend) / scaling["factor"] + blend)
    return divisors.float()
