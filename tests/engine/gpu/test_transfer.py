"""Tensors that cross together are the same ones on the other side."""

from __future__ import annotations

import torch

from qoq.engine.gpu.transfer import ALIGNMENT, send_together


def test_each_arrives_aligned_with_its_type_and_shape():
    parts = [
        torch.tensor([1.5, -2.0, 3.0]),
        torch.empty(0, dtype=torch.int64),
        torch.arange(10)[::2].view(5, 1),
        torch.tensor([7], dtype=torch.int32),
    ]
    sent = send_together(parts, torch.device("cpu"))
    for part, other in zip(parts, sent, strict=True):
        assert torch.equal(part, other) and part.dtype == other.dtype
        assert not other.numel() or other.data_ptr() % ALIGNMENT == 0
    assert send_together([torch.empty(4, 0)], torch.device("cpu"))[0].shape == (4, 0)
