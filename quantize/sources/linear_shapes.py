"""The shape that each linear layer of a model has by its config."""

from __future__ import annotations

from qoq.engine.models.config import ModelConfig


def linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """[N, K] by name without ``.weight``: the decoder's seven a layer, and the head."""
    shapes = {
        f"model.layers.{layer}.{part}": shape
        for layer in range(config.num_layers)
        for part, shape in _layer_shapes(config).items()
    }
    return shapes | {"lm_head": (config.vocab_size, config.hidden_size)}


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
    return {
        "self_attn.q_proj": (q_size, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, q_size),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
