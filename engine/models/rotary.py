"""Frequencies of the rotary embedding, with every scaling that the supported models use.

Sources: linear and dynamic NTK as in Hugging Face's config vocabulary; YaRN, arXiv 2309.00071,
sections 3.2 to 3.4; ``llama3`` from the Llama 3.1 model card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qoq.engine.models.config import ModelConfig
from qoq.kernels.rope import rope_table


def make_rope_table(config: ModelConfig, max_model_len: int) -> Tensor:
    """``kernels.rope.rope_table`` of all positions, fp32 ``[max_model_len, 3, head_dim / 2]``.

    Raises:
        ValueError: an unknown scaling, or one whose parameters are missing.
    """
    inv_freq, attention_scale = rope_frequencies(config, max_model_len)
    return rope_table(inv_freq, max_model_len, attention_scale)


def rope_frequencies(config: ModelConfig, max_model_len: int) -> tuple[Tensor, float]:
    """``inv_freq`` fp32 ``[head_dim / 2]`` and the factor on cosines and sines."""
    rope, plain = config.rope, _inv_freq(config.rope.theta, config.head_dim)
    try:
        match rope.kind:
            case "default":
                return plain, 1.0
            case "linear":
                return plain / rope.scaling["factor"], 1.0
            case "dynamic":
                return _dynamic(config, max_model_len), 1.0
            case "llama3":
                return _llama3(plain, rope.scaling), 1.0
            case "yarn":
                return _yarn(plain, config)
    except KeyError as missing:
        raise ValueError(f"config.json: {rope.kind} RoPE scaling needs {missing}") from None
    raise ValueError(
        f"config.json: RoPE scaling {rope.kind!r} is not supported; "
        "supported are default, linear, dynamic, yarn, llama3"
    )


def _inv_freq(theta: float, head_dim: int) -> Tensor:
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies: Tensor = 1.0 / theta**exponent
    return frequencies


def _dynamic(config: ModelConfig, max_model_len: int) -> Tensor:
    """NTK-aware base for the longest context this engine serves, the same for every request.

    Hugging Face changes the base as a sequence grows, so that the same prefix has other keys in a
    longer context; a shared cache cannot. Up to the model's own length the two agree.
    """
    rope, trained = config.rope, config.max_position_embeddings
    if max_model_len <= trained:
        return _inv_freq(rope.theta, config.head_dim)
    factor = rope.scaling["factor"]
    growth = factor * max_model_len / trained - (factor - 1)
    power = config.head_dim / (config.head_dim - 2)
    return _inv_freq(rope.theta * growth**power, config.head_dim)


def _llama3(inv_freq: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Slow waves are stretched by ``factor``, fast ones kept, those between blended."""
    factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = trained * inv_freq / (2 * math.pi)
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return inv_freq.mul(1 - blend).div(factor) + inv_freq.mul(blend)


def _yarn(inv_freq: Tensor, config: ModelConfig) -> tuple[Tensor, float]:
    scaling = config.rope.scaling
    factor = scaling["factor"]
    trained = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
    first = _dimension_of(scaling.get("beta_fast") or 32, trained, config)
    last = _dimension_of(scaling.get("beta_slow") or 1, trained, config)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    ramp = (torch.arange(inv_freq.numel()) - first) / max(last - first, 0.001)
    stretched = ramp.clamp(0, 1)
    scale = scaling.get("attention_factor") or _yarn_temperature(factor, scaling)
    return inv_freq / factor * stretched + inv_freq * (1 - stretched), scale


def _yarn_temperature(factor: float, scaling: Mapping[str, Any]) -> float:
    def of(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return of(scaling["mscale"]) / of(scaling["mscale_all_dim"])
    return of(1.0)


def _dimension_of(turns: float, trained: int, config: ModelConfig) -> float:
    """The (fractional) pair of dimensions that turns ``turns`` times in the trained length."""
    wave = math.log(trained / (turns * 2 * math.pi))
    return config.head_dim * wave / (2 * math.log(config.rope.theta))
