import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qoq.kernels.packing import unpack_codes
from qoq.quantize.weights import progressive_weight
from qoq.quantize.weights.int8_weight import round_to_int8
from qoq.quantize.weights.progressive_weight import (
    ProgressiveWeight,
    closed_form,
    encode,
    round_to_groups,
    search_groups,
)

from .weights import weights


def integer_groups() -> st.SearchStrategy[torch.Tensor]:
    """int8 [1, G, 8] within the protective range, whole range and narrow ones alike."""
    group = st.lists(st.integers(-119, 119), min_size=8, max_size=8)
    narrow = st.lists(st.integers(100, 119), min_size=8, max_size=8)
    groups = st.lists(group | narrow, min_size=1, max_size=6)
    return groups.map(lambda rows: torch.tensor([rows], dtype=torch.int8))


def squared_error(groups, codes, scales, offsets):
    restored = codes.float() * scales[..., None].float() + offsets[..., None].float()
    return (restored - groups.float()).square().sum(dim=-1)


@given(weights(k=128), st.sampled_from([32, 64, 128]))
def test_every_code_is_legal(weight: torch.Tensor, group_size: int):
    rounded = round_to_groups(weight, group_size)
    assert rounded.codes.max() <= 15
    assert rounded.group_scales.min() >= 1 and rounded.group_scales.max() <= 17
    assert rounded.integers().min() >= -128 and rounded.integers().max() <= 127
    assert torch.isfinite(rounded.dequantize()).all()


@given(integer_groups())
def test_search_is_never_worse_than_the_closed_form(groups: torch.Tensor):
    codes, scales, offsets = search_groups(groups)
    assert (codes.short() * scales[..., None] + offsets[..., None]).max() <= 127
    scale, offset = closed_form(groups.float())
    closed = squared_error(
        groups, encode(groups.float(), scale, offset), scale.squeeze(-1), offset.squeeze(-1)
    )
    assert (squared_error(groups, codes, scales, offsets) <= closed).all()


@given(integer_groups())
def test_the_closed_form_errs_by_half_a_scale_or_by_what_lies_past_its_top(groups: torch.Tensor):
    wide = groups.float()
    scale, offset = closed_form(wide)
    error = (encode(wide, scale, offset) * scale + offset - wide).abs()
    # scale = round(range / 15) falls short of the range by 15 * 0.5 at most.
    assert (error <= torch.maximum(scale / 2, torch.tensor(7.5))).all()


def test_search_finds_most_of_what_there_is_to_gain():
    """The optimum by trying every (scale, offset); the search may leave a fifth of the gap."""
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(1))
    groups = round_to_int8(weight, 119).codes.view(40, 2, 64)
    wide = groups.float()
    best = torch.full((40, 2), torch.inf)
    for scale in range(1, 18):
        for offset in range(-128, 128):
            codes = encode(wide, torch.tensor(scale), torch.tensor(offset))
            restored = codes * scale + offset
            error = (restored - wide).square().sum(dim=-1)
            best = torch.minimum(best, error.where(restored.amax(dim=-1) <= 127, torch.inf))
    scale, offset = closed_form(wide)
    closed = (encode(wide, scale, offset) * scale + offset - wide).square().sum()
    found = squared_error(groups, *search_groups(groups)).sum()
    assert best.sum() <= found <= best.sum() + 0.2 * (closed - best.sum())


def test_nearest_codes_fit_int8_for_every_scale_and_offset():
    """Exhaustive: what the search may choose from, for every integer of level 0."""
    integers = torch.arange(-119.0, 120.0)
    offsets = torch.arange(-128.0, 128.0)[:, None]
    for scale in range(1, 18):
        restored = encode(integers, torch.tensor(scale), offsets) * scale + offsets
        assert restored.min() >= -128
        assert restored.max() <= 127


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
    monkeypatch.setattr(progressive_weight, "CHUNK_ELEMENTS", 256)
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
