"""Why a per-channel zero point is multiplied by the sum of the codes, not of the activations.

With activations ``x = s (c + e)``, codes ``c`` and rounding errors ``e``, the exact product is
``sum(x (q - z))``. Subtracting ``z`` times the sum of the codes leaves noise ``sum(e (q - z))``;
``z`` times the sum of ``x`` (QServe, arXiv 2405.04532, section 5.2.1) leaves ``sum(e q)``. Errors
are independent of each other and of ``q``, so the noise powers are as ``sum((q - z) ** 2)`` to
``sum(q ** 2)``: codes lie close to ``z`` and far from 0.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qoq.kernels.int8_gemm import int8_gemm
from qoq.kernels.packing import pack_codes
from qoq.kernels.quantize import quantize_activations
from qoq.kernels.w4a8_gemm import unpack_per_channel

NUM_TOKENS, NUM_CHANNELS = 2048, 64
# Five standard deviations of a quotient of two means of NUM_TOKENS squares.
SPREAD = 5 * (2 * 2 / NUM_TOKENS) ** 0.5


def gaussian_codes(k: int) -> tuple[Tensor, Tensor]:
    """Codes uint8 ``[N, K]`` of Gaussian rows and their zero points uint8 ``[N]``."""
    weight = torch.randn(NUM_CHANNELS, k, generator=torch.Generator().manual_seed(k))
    low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    scale = (high - low) / 15
    zeros = (-low / scale).round()
    codes = (weight / scale).round() + zeros
    return codes.clamp(0, 15).to(torch.uint8), zeros[:, 0].to(torch.uint8)


def noise_power(form: Tensor, exact: Tensor) -> float:
    return (form.double() - exact).square().mean().item()


@pytest.mark.parametrize(("k", "about"), [(576, 10), (4096, 14)])
def test_the_sum_of_the_codes_is_an_order_of_magnitude_less_noisy(k: int, about: int):
    """``about`` is the ratio of noise powers for Gaussian weights of that length."""
    codes, zeros = gaussian_codes(k)
    x = torch.randn(NUM_TOKENS, k, generator=torch.Generator().manual_seed(1))
    quantized = quantize_activations(x)
    q, z = codes.double(), zeros.double()[:, None]
    exact = x.double() @ (q - z).t()
    by_codes = int8_gemm(
        quantized, unpack_per_channel(pack_codes(codes), zeros), torch.ones(NUM_CHANNELS)
    )
    raw = (quantized.codes.double() * quantized.scales) @ q.t()
    by_activations = raw - x.double().sum(dim=1, keepdim=True) * z.t()
    ratio = noise_power(by_activations, exact) / noise_power(by_codes, exact)
    expected = (q.square().sum() / (q - z).square().sum()).item()
    assert abs(ratio / expected - 1) < SPREAD
    assert expected == pytest.approx(about, abs=0.5)
