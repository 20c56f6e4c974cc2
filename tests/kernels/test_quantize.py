"""Per-token INT8 codes: the definition's bits, and half a step of error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.quantize import quantize_activations, quantize_activations_reference

from .closeness import U32, assert_same_bits, assert_within

DENORMAL = 2.0**-149


def matrices() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(5, 96, generator=generator)
    mixed = torch.cat((normal, torch.zeros(1, 96), torch.full((1, 96), -3.0), normal * 1e30))
    return {
        "normal": normal,
        "zero": torch.zeros(2, 7),
        "constant": torch.full((2, 7), -0.3),
        "huge": normal * 1e30,
        "largest": torch.full((1, 3), torch.finfo(torch.float32).max),
        "tiny": normal * 1e-36,
        "denormal": torch.randint(-500, 500, (50, 9), generator=generator) * DENORMAL,
        # max / 127 rounds down to one denormal step, so that max / s is 190.
        "denormal past 127": torch.tensor([[190.0, -190.0, 30.0]]) * DENORMAL,
        "ties": torch.arange(-254, 255)[None] / 2,
        "one column": normal[:, :1],
        "no rows": torch.empty(0, 64),
        "no columns": torch.empty(3, 0),
        "neither": torch.empty(0, 0),
        "rows unlike each other": mixed,
        "not contiguous": normal.t(),
        "bf16": normal.bfloat16(),
        "fp16": normal.half(),
    }


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", matrices())
def test_codes_and_scales_are_the_reference_bits(kind: str, bits: int):
    """Fails if the divisions, the rounding or the clamp differ from the definition."""
    x = matrices()[kind]
    quantized, reference = quantize_activations(x, bits), quantize_activations_reference(x, bits)
    assert_same_bits("codes", quantized.codes, reference.codes)
    assert_same_bits("scales", quantized.scales, reference.scales)
    assert quantized.codes.dtype == torch.int8 and quantized.scales.dtype == torch.float32
    assert quantized.scales.shape == (x.shape[0], 1)


@pytest.mark.parametrize("kind", matrices())
def test_error_is_at_most_half_a_step(kind: str):
    """Fails if a code wraps or is cut off.

    Besides half a step: a scale is rounded by up to half its spacing, which the largest code
    multiplies by 127; a quotient is rounded by 127 roundoffs.
    """
    x = matrices()[kind]
    codes, scales = quantize_activations(x)
    wide = scales.double()
    half_spacing = torch.maximum(wide * U32, torch.tensor(DENORMAL / 2, dtype=torch.float64))
    bound = wide / 2 + 127 * half_spacing + 127 * U32 * wide
    assert_within("dequantized", codes * wide, x.double(), bound.expand(x.shape))


def test_codes_are_written_by_hand():
    """The definition in numbers: rounds to even, the largest is 127, zeros scale by 1."""
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5], [0.0, 0.0, 0.0, 0.0], [-254.0, 254.0, 1.0, 3.0]])
    codes, scales = quantize_activations(x)
    assert codes.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0], [-127, 127, 0, 2]]
    assert scales.flatten().tolist() == [1.0, 1.0, 2.0]


def test_4_bit_codes_are_written_by_hand():
    codes, scales = quantize_activations(torch.tensor([[7.0, 0.5, -1.5], [-14.0, 3.0, 5.0]]), 4)
    assert codes.tolist() == [[7, 0, -2], [-7, 2, 2]]
    assert scales.flatten().tolist() == [1.0, 2.0]


def test_sums_are_of_the_codes_in_int32():
    """An INT8 or INT16 sum would wrap at the first or the 259th column of 127."""
    quantized = quantize_activations(torch.ones(3, 5000))
    assert quantized.sums.dtype == torch.int32
    assert quantized.sums.tolist() == [127 * 5000] * 3
    assert quantize_activations(torch.empty(2, 0)).sums.tolist() == [0, 0]


def test_leaves_its_input_alone():
    """fp32 input is not copied first, so an operation in place would show."""
    x = torch.randn(3, 8)
    before = x.clone()
    quantize_activations(x)
    assert_same_bits("x", x, before)


@pytest.mark.parametrize(
    "x", [torch.ones(2, 3, dtype=torch.int32), torch.ones(3), torch.ones(1, 2, 3)]
)
def test_refuses_what_is_not_a_floating_point_matrix(x: Tensor):
    for function in (quantize_activations, quantize_activations_reference):
        with pytest.raises(ValueError, match=r"^x: expected floating point \[M, K\]"):
            function(x)
