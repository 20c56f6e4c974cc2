"""llama.cpp's tensor names to Hugging Face's, for the Llama-shaped architectures."""

from __future__ import annotations

import re

# llama.cpp's converters reorder the rows of Q and K for these: halves interleaved, head by head.
PERMUTED_ARCHITECTURES = ("llama",)

ROPE_FACTORS = "rope_freqs.weight"  # belongs in config.json, not among the weights

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name: str) -> str | None:
    """``blk.3.attn_q.weight`` to ``model.layers.3.self_attn.q_proj.weight``; None if unknown."""
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _BLOCK:
        return None
    return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"
