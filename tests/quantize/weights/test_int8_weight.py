import torch
from hypothesis import given
from hypothesis import strategies as st

from qoq.quantize.weights.int8_weight import round_to_int8

from .weights import weights


@given(weights(), st.sampled_from([119, 127]))
def test_error_is_at_most_half_a_step(weight: torch.Tensor, limit: int):
    rounded = round_to_int8(weight, limit)
    assert rounded.codes.abs().max() <= limit
    # Half a step, plus the rounding of the quotient (2^-24 of up to `limit` steps) and of the
    # product, each relative; rows whose scale is not a normal float32 are rounded more coarsely.
    is_normal = rounded.scales >= torch.finfo(torch.float32).tiny
    error = (rounded.dequantize() - weight).abs()
    bound = rounded.scales[:, None] * (0.5 + limit * 2**-22)
    assert (error <= bound)[is_normal].all()


def test_halves_round_to_even():
    weight = torch.tensor([[127.0, 0.5, 1.5, -2.5, -126.5]])
    assert round_to_int8(weight).codes.tolist() == [[127, 0, 2, -2, -126]]


def test_zero_rows_get_scale_one():
    rounded = round_to_int8(torch.tensor([[0.0, 0.0], [0.0, -3.0]]))
    assert rounded.scales[0] == 1
    assert rounded.codes.tolist() == [[0, 0], [0, -127]]


def test_a_row_too_small_for_a_scale_becomes_zero_and_not_nan():
    rounded = round_to_int8(torch.full((1, 4), 1e-45))
    assert torch.isfinite(rounded.dequantize()).all()
