"""Run by test_sampler in a process of its own: Triton's interpreter is chosen at import."""

import interpreter  # noqa: F401
import torch
import triton.language as tl
from sampler_cases import (
    check_company,
    check_dtypes,
    check_masked,
    check_random,
    check_sampler,
    check_ties,
)

from qoq.kernels.gpu.sampling import sample_choice, sample_kernel, sample_order, sampler

if __name__ == "__main__":
    torch.manual_seed(0)
    sample_kernel.TILE = 16  # several programs a row
    sample_order.ROWS = tl.constexpr(8)  # as if a batch were large
    # As if a vocabulary were long: few and many candidates, and histograms that narrow them down.
    sample_choice.SPANS, sampler.CANDIDATES, sample_choice.FEW = 16, 128, tl.constexpr(32)
    check_random("cpu")
    for vocab_size, scale in ((100, 0.1), (1500, 1.0), (1000, 4.0)):
        assert check_sampler("cpu", vocab_size, scale, 1) <= 1
    for vocab_size in (100, 1000):
        check_ties("cpu", vocab_size, 1)
    check_masked("cpu")
    check_dtypes("cpu", (torch.float16,))
    check_company("cpu", 200)
    print("equal")
