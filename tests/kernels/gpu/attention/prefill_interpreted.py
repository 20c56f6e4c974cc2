"""Run by test_prefill_attention_triton in a process of its own: Triton's interpreter is chosen at
import.
"""

import interpreter  # noqa: F401
import torch
from prefill_cases import check, check_company

from qoq.kernels.bench.attention_case import make_case

if __name__ == "__main__":
    torch.manual_seed(0)
    check(make_case([70, 1, 130], (6, 1), 64, device="cpu"))
    check(make_case([100], (2, 2), 96, bits=8, device="cpu"))
    check(make_case([300, 40], (7, 1), 32, device="cpu"), window=90)
    check_company(make_case([20, 150, 64], (2, 1), 32, device="cpu"), window=70)
    print("equal")
