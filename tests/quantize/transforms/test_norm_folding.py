from pathlib import Path

import torch

from qoq.quantize.transforms.norm_folding import fold_final_norm, fold_norms

from .tiny_decoder import TinyDecoder


def test_gains_become_ones_and_those_of_query_and_key_norms_stay(tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "qwen3-qk-norm").layers[0]
    before = dict(layer.tensors)
    fold_norms(layer)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        assert (layer.tensors[f"{norm}.weight"] == 1).all()
    for norm in ("self_attn.q_norm", "self_attn.k_norm"):
        assert torch.equal(layer.tensors[f"{norm}.weight"], before[f"{norm}.weight"])


def test_a_gain_scales_columns():
    head = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    folded = fold_final_norm(head, torch.tensor([10.0, 0.0]))
    assert torch.equal(folded, torch.tensor([[10.0, 0.0], [30.0, 0.0]]))
    assert head[0, 0] == 1  # the embedding, where the head is tied to it
