"""Run by test_sampler in a process of its own: Triton's interpreter is chosen at import."""

import interpreter  # noqa: F401
import torch
from sampler_cases import check_all, check_sampler, check_ties

from qoq.kernels.gpu import sampler

if __name__ == "__main__":
    torch.manual_seed(0)
    check_all("cpu", (torch.float16,), (1, 200, 4500), 1)
    sampler.CANDIDATES = 64  # as if a vocabulary were long: histograms narrow the place down
    for scale in (1.0, 4.0):
        assert check_sampler("cpu", 4500, scale, 1) <= 1
    check_ties("cpu", 4500)
    print("equal")
