"""The shape of a decoder, read from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qoq.engine.models.registry import check_architecture


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """``scaling`` holds the config's own parameters of ``kind`` (factor and the like)."""

    theta: float
    kind: str
    scaling: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """``window`` is the sliding window in tokens of each layer, None where a layer sees all."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: RopeConfig
    windows: tuple[int | None, ...]
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def has_qk_norm(self) -> bool:
        return self.architecture == "Qwen3ForCausalLM"


def parse_model_config(config: Mapping[str, Any]) -> ModelConfig:
    """Read what the decoder needs.

    Raises:
        ValueError: an unsupported architecture or activation, or a field that is missing.
    """
    architecture = (config.get("architectures") or ["(none)"])[0]
    check_architecture(architecture)
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise ValueError(f"config.json: hidden_act {activation!r} is not supported, only 'silu'")
    try:
        return _parse(architecture, config)
    except KeyError as missing:
        raise ValueError(f"config.json: {missing.args[0]} is missing") from None


def _parse(architecture: str, config: Mapping[str, Any]) -> ModelConfig:
    num_heads = config["num_attention_heads"]
    eos = config.get("eos_token_id")
    return ModelConfig(
        architecture=architecture,
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["rms_norm_eps"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        rope=_parse_rope(config),
        windows=_parse_windows(architecture, config),
        bos_token_id=config.get("bos_token_id"),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
    )


def _parse_rope(config: Mapping[str, Any]) -> RopeConfig:
    """Both spellings: ``rope_theta`` with ``rope_scaling``, and the newer ``rope_parameters``."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    return RopeConfig(float(theta), kind, scaling)


def _parse_windows(architecture: str, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Mistral slides in every layer; Qwen in those from ``max_window_layers`` on, if asked to."""
    num_layers: int = config["num_hidden_layers"]
    window: int | None = config.get("sliding_window")
    if window is None or architecture == "LlamaForCausalLM":
        return (None,) * num_layers
    if architecture == "MistralForCausalLM":
        return (window,) * num_layers
    if not config.get("use_sliding_window", False):
        return (None,) * num_layers
    if kinds := config.get("layer_types"):
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    first: int = config.get("max_window_layers", num_layers)
    return tuple(window if layer >= first else None for layer in range(num_layers))
