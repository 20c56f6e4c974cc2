import torch
from hypothesis import given

from qoq.kernels.packing import unpack_codes
from qoq.quantize.weights.channel_weight import round_to_channels

from .weights import weights


@given(weights())
def test_codes_are_legal_and_the_error_is_at_most_a_step(weight: torch.Tensor):
    rounded = round_to_channels(weight)
    assert rounded.codes.max() <= 15 and rounded.zeros.max() <= 15
    # Both the weight and the zero point are rounded: half a step each.
    is_normal = rounded.scales >= torch.finfo(torch.float32).tiny
    error = (rounded.dequantize() - weight).abs()
    assert (error <= rounded.scales[:, None] * (1 + 2**-18))[is_normal].all()


@given(weights())
def test_zero_stays_exactly_zero(weight: torch.Tensor):
    weight[:, 0] = 0
    assert (round_to_channels(weight).dequantize()[:, 0] == 0).all()


def test_known_row():
    rounded = round_to_channels(torch.tensor([[-5.0, 0.0, 4.4, 10.0]]))
    assert rounded.scales.item() == 1.0
    assert rounded.zeros.item() == 5
    assert rounded.codes.tolist() == [[0, 5, 9, 15]]


def test_stores_even_columns_in_the_low_nibble():
    tensors = round_to_channels(torch.tensor([[-5.0, 0.0, 4.4, 10.0]])).tensors()
    assert tensors["qweight"].tolist() == [[0x50, 0xF9]]
    assert unpack_codes(tensors["qweight"]).tolist() == [[0, 5, 9, 15]]
    assert set(tensors) == {"qweight", "scales", "zeros"}
