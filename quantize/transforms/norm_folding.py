"""RMSNorm gains move into the linear layers that read them; the norms keep gains of one.

``q_norm`` and ``k_norm`` of Qwen3 stay: RoPE follows them, not a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qoq.quantize.layer_weights import LayerWeights
from qoq.quantize.transforms.channels import scale_inputs

NORM_READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def fold_norms(layer: LayerWeights) -> None:
    for norm, linears in NORM_READERS.items():
        gain = layer.tensors[f"{norm}.weight"]
        for linear in linears:
            scale_inputs(layer, linear, gain)
        layer.tensors[f"{norm}.weight"] = torch.ones_like(gain)


def fold_final_norm(head: Tensor, gain: Tensor) -> Tensor:
    """lm_head [V, hidden] for a final norm whose gain [hidden] becomes ones.

    The result is no longer the embedding, so a tied head has to be stored on its own.
    """
    return head * gain
