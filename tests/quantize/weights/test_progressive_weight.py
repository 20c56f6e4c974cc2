import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qoq.kernels.packing import unpack_codes
from qoq.quantize.weights import lattice
from qoq.quantize.weights.progressive_weight import ProgressiveWeight, round_to_groups

from .weights import weights


@given(weights(k=128), st.sampled_from([32, 64, 128]))
def test_every_code_is_legal(weight: torch.Tensor, group_size: int):
    rounded = round_to_groups(weight, group_size)
    assert rounded.codes.max() <= 15
    assert rounded.group_scales.min() >= 1 and rounded.group_scales.max() <= 17
    assert rounded.integers().min() >= -128 and rounded.integers().max() <= 127
    assert torch.isfinite(rounded.dequantize()).all()


def test_codes_that_leave_int8_are_not_stored():
    """As rounding by another technique might produce them: 15 * 17 + 0 = 255."""
    codes = torch.full((1, 32), 15, dtype=torch.uint8)
    scales = torch.full((1, 1), 17, dtype=torch.uint8)
    offsets = torch.zeros(1, 1, dtype=torch.int8)
    with pytest.raises(AssertionError, match="does not fit INT8"):
        ProgressiveWeight(codes, torch.ones(1), scales, offsets).tensors()


def test_constant_groups_and_zero_rows_are_exact():
    weight = torch.zeros(2, 64)
    weight[1] = 0.25
    rounded = round_to_groups(weight, 32)
    assert (rounded.integers() == torch.tensor([[0], [119]])).all()
    assert torch.equal(rounded.dequantize()[0], weight[0])
    assert torch.allclose(rounded.dequantize()[1], weight[1], rtol=1e-6)


def test_an_outlier_costs_its_own_group_only():
    weight = torch.linspace(-1, 1, 64).repeat(1, 2)
    weight[0, 0] = 100.0
    rounded = round_to_groups(weight, 64)
    step = rounded.scales.item()
    error = (rounded.dequantize() - weight).abs()[0]
    assert error[64:].max() <= step / 2 * (1 + 1e-5)  # level 1 is exact where the range is narrow


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch):
    weight = torch.randn(33, 128, generator=torch.Generator().manual_seed(2))
    whole = round_to_groups(weight, 64)
    monkeypatch.setattr(lattice, "CHUNK_ELEMENTS", 256)
    parts = round_to_groups(weight, 64)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, parts.tensors()[name])


def test_stored_tensors_are_the_format():
    tensors = round_to_groups(torch.randn(6, 128), 32).tensors()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == {
        "qweight": (torch.uint8, (6, 64)),
        "scales": (torch.float32, (6,)),
        "group_scales": (torch.uint8, (6, 4)),
        "group_offsets": (torch.int8, (6, 4)),
    }
    assert unpack_codes(tensors["qweight"]).shape == (6, 128)
