"""The roofline's arithmetic, against figures worked out by hand."""

import pytest

from qoq.kernels.bench.roofline import (
    FORMATS,
    GPUS,
    LAUNCH_US,
    W4A8,
    predicted_us,
    roofline_us,
    tensor_us,
)

A100, _, H100, _ = GPUS
SHAPE = (4096, 4096)


def test_one_token_moves_the_weights():
    """4096 * 4096 weights of 17 / 32 bytes, one row in, one 16-bit row out, at 3.35 TB/s."""
    expected = (4096 * 4096 * 17 / 32 + 4096 + 8192) / 3.35e6
    assert roofline_us(W4A8, H100, 1, *SHAPE) == pytest.approx(expected)
    assert predicted_us(H100, 1, *SHAPE) == pytest.approx(expected / 0.8 + LAUNCH_US)


def test_many_tokens_multiply():
    expected = 2 * 2048 * 4096 * 4096 / 1979e6
    assert roofline_us(W4A8, H100, 2048, *SHAPE) == pytest.approx(expected)
    assert predicted_us(H100, 2048, *SHAPE) == pytest.approx(expected / 0.75 + LAUNCH_US)


def test_what_a_gpu_cannot_multiply_has_no_roofline():
    fp8 = next(fmt for fmt in FORMATS if fmt.name == "FP8")
    assert tensor_us(fp8, A100, 16, *SHAPE) is None
    assert roofline_us(fp8, A100, 16, *SHAPE) is None
