from pathlib import Path

import torch

from qoq.quantize.transforms.head_rotation import rotate_heads

from .tiny_decoder import TinyDecoder


def test_an_outlier_channel_spreads_over_its_head_only(tmp_path: Path):
    layer = TinyDecoder.make(tmp_path, "llama").layers[0]  # two value heads of 16 channels
    values = torch.zeros(32, 64)
    values[19] = 8.0
    layer.tensors["self_attn.v_proj.weight"] = values
    rotate_heads(layer)
    rotated = layer.tensors["self_attn.v_proj.weight"]
    assert torch.equal(rotated[:16], values[:16])
    assert torch.allclose(rotated[16:].abs(), torch.tensor(8.0 / 4), rtol=1e-6)
