import pytest
import torch

from qoq.quantize.weights.grouped_weight import GroupedWeight, contiguous_groups


def grouped(group_index: list[int], zeros: list[int]) -> GroupedWeight:
    num_groups = len(zeros)
    return GroupedWeight(
        torch.tensor([[3, 5, 7, 15]], dtype=torch.uint8),
        torch.tensor([[0.5, 2.0]])[:, :num_groups],
        torch.tensor([zeros], dtype=torch.uint8),
        torch.tensor(group_index),
    )


def test_each_input_has_the_scale_and_the_zero_point_of_its_group():
    """A code below its zero point must not wrap around in uint8."""
    assert grouped([0, 0, 1, 1], [8, 16]).dequantize().tolist() == [[-2.5, -1.5, -18, -2]]
    assert grouped([1, 0, 1, 0], [8, 16]).dequantize().tolist() == [[-26, -1.5, -18, 3.5]]


def test_groups_are_contiguous_where_they_follow_each_other():
    assert contiguous_groups(6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert grouped([0, 0, 1, 1], [8, 8]).is_contiguous
    assert not grouped([0, 1, 0, 1], [8, 8]).is_contiguous
    assert not grouped([1, 1, 0, 0], [8, 8]).is_contiguous


def test_a_single_group_is_one_scale_a_channel():
    weight = grouped([0, 0, 0, 0], [15])
    channels = weight.to_channels()
    assert torch.equal(channels.dequantize(), weight.dequantize())
    assert (channels.scales.shape, channels.zeros.shape) == ((1,), (1,))


def test_a_zero_point_past_15_has_no_place_there():
    with pytest.raises(ValueError, match="zero point of 16"):
        grouped([0, 0, 0, 0], [16]).to_channels()
