"""KV quantization within half a step, finite whatever comes in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qoq.kernels.kv_cache import FP16_MAX, KvFormat, dequantize_kv, quantize_kv

from .closeness import U32, UNIT_ROUNDOFF, assert_same_bits, assert_within

U16 = UNIT_ROUNDOFF[torch.float16]
# fp16 is spaced evenly below its normal numbers.
HALF_SPACING_16 = 2**-25


def error_bound(kv: Tensor, bits: int) -> Tensor:
    """Per head, of values whose range and minimum fit in fp16.

    Inside the codes' range a value is at most half a step off. The range itself is shifted by the
    rounding of the bias, and its top moreover by that of the scale, ``levels`` times. A few fp32
    roundings of the intermediate values come on top.
    """
    levels = 2**bits - 1
    low, high = kv.double().amin(-1), kv.double().amax(-1)
    exact = (high - low) / levels
    scale = quantize_kv(kv, bits)[1][..., 0].double()
    scale_error = exact * U16 + HALF_SPACING_16
    bias_error = low.abs() * U16 + HALF_SPACING_16
    fp32 = 8 * U32 * (low.abs() + high.abs() + levels * scale)
    return torch.maximum(scale / 2, bias_error + levels * scale_error) + fp32


def heads() -> dict[str, Tensor]:
    normal = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    return {
        "normal": normal,
        "channel outliers": normal * torch.where(torch.arange(64) % 16 == 3, 100.0, 1.0),
        "far from zero": normal * 0.1 + 1000,
        "one-sided": normal.abs() + 1,
        "large": normal * 5000,
        # Scales between zero and the normal numbers of fp16, and below its smallest.
        "tiny": normal * 1e-5,
        "vanishing": normal * 1e-8,
        "denormal": normal * 1e-42,
        "two values": torch.where(normal > 0, 1.0, -1.0),
        "one outlier": torch.where(torch.arange(64) == 7, 300.0, normal),
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", heads())
def test_error_is_half_a_step_and_the_rounding_of_fp16(kind: str, bits: int):
    """Fails if codes wrap, or are made with the unrounded scale and bias."""
    kv = heads()[kind]
    codes, scale_bias = quantize_kv(kv, bits)
    assert codes.dtype == torch.uint8 and scale_bias.dtype == torch.float16
    assert codes.max() <= 2**bits - 1
    bound = error_bound(kv, bits)[:, None].expand(kv.shape)
    assert_within("kv", dequantize_kv(codes, scale_bias), kv, bound)


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_nearest_under_the_stored_scale(bits: int):
    """Only then does the error not depend on how fp16 rounded the scale."""
    kv = heads()["normal"]
    codes, scale_bias = quantize_kv(kv, bits)
    scale, bias = scale_bias.double().unsqueeze(-2).unbind(-1)
    every = torch.arange(2**bits) * scale[..., None] + bias[..., None]  # [40, 1, 2 ** bits]
    nearest = (every - kv.double()[..., None]).abs().amin(-1)
    chosen = (codes * scale + bias - kv.double()).abs()
    assert_within("distance", chosen, nearest, 8 * U32 * (kv.abs().amax() + 1).double())


def test_by_hand():
    kv = torch.tensor([[-1.0, 14.0, 0.4, 0.6]])
    codes, scale_bias = quantize_kv(kv, 4)
    assert codes.tolist() == [[0, 15, 1, 2]]
    assert scale_bias.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 65504.0, 0.1, -1e-7])
def test_a_constant_head_is_its_bias(value: float, bits: int):
    """Scale 0 would divide by zero; it becomes 1 and the value comes back rounded to fp16."""
    codes, scale_bias = quantize_kv(torch.full((3, 32), value), bits)
    assert (scale_bias[:, 0] == 1).all()
    assert (codes == 0).all()
    assert (dequantize_kv(codes, scale_bias) == torch.tensor(value).half().float()).all()


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32) | st.sampled_from([1e30, -1e30]), min_size=2, max_size=8))
def test_scale_and_bias_are_finite_whatever_comes_in(bits: int, values: list[float]):
    """NaN, infinities, overflow of fp16: a NaN left behind in a block would reach, as 0 * NaN, the
    sums of the next request that is given it."""
    codes, scale_bias = quantize_kv(torch.tensor([values]), bits)
    assert torch.isfinite(scale_bias).all()
    assert (scale_bias[..., 0] > 0).all()
    assert codes.max() <= 2**bits - 1
    assert torch.isfinite(dequantize_kv(codes, scale_bias)).all()


def test_overflow_clamps_to_the_ends():
    """What does not fit in fp16 keeps its sign and order."""
    kv = torch.tensor([[-1e6, 1e6, 0.0], [-1e30, -1e30, -1e30], [-torch.inf, torch.inf, 5.0]])
    restored = dequantize_kv(*quantize_kv(kv, 4))
    assert restored[0, 0] == -FP16_MAX and restored[0, 1] > FP16_MAX
    assert restored[0, 0] < restored[0, 2] < restored[0, 1]
    assert (restored[1] == -FP16_MAX).all()
    assert restored[2, 0] == -FP16_MAX and restored[2, 1] == 14 * FP16_MAX


def test_a_head_has_the_same_bits_in_any_batch(threads: int):
    kv = torch.randn(64, 2, 3, 96)
    alone = [quantize_kv(row[None], 4) for row in kv]
    for size in (1, 5, 43, 64):
        codes, scale_bias = quantize_kv(kv[:size], 4)
        assert torch.equal(codes, torch.cat([a[0] for a in alone[:size]]))
        assert_same_bits("scale, bias", scale_bias, torch.cat([a[1] for a in alone[:size]]))


def test_bytes_of_a_block():
    """64 tokens of 64 bytes of codes and 4 of scale and bias, keys and values: 8704 a head."""
    kv4, kv8 = KvFormat(1, 128), KvFormat(1, 128, bits=8)
    fp32 = KvFormat(1, 128, bits=None, dtype=torch.float32)
    assert kv4.block_bytes == 64 * (2 * 64 + 2 * 4) == 8704
    assert kv4.block_bytes * 8 / (64 * 2 * 128) == 4.25
    assert kv8.block_bytes == 64 * (2 * 128 + 2 * 4)
    assert fp32.block_bytes == 64 * 2 * 128 * 4
    assert KvFormat(8, 128).block_bytes == 8 * kv4.block_bytes
    for fmt in (kv4, kv8, fp32):
        blocks = fmt.allocate(3).blocks
        assert blocks.numel() * blocks.element_size() == 3 * fmt.block_bytes


def test_a_format_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="^bits: expected 4, 8 or None, got 3"):
        KvFormat(1, 64, bits=3)
    with pytest.raises(ValueError, match="^head_dim: expected an even number, got 33"):
        KvFormat(1, 33)
    with pytest.raises(ValueError, match="^dtype: torch.float16 does not go with bits 4"):
        KvFormat(1, 64, dtype=torch.float16)
    with pytest.raises(ValueError, match="^dtype: torch.uint8 does not go with bits None"):
        KvFormat(1, 64, bits=None)
