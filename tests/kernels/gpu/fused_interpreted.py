"""Run by test_fused_triton in a process of its own: Triton's interpreter is chosen at import."""

import interpreter  # noqa: F401
import torch
from fused_cases import check_all

if __name__ == "__main__":
    torch.manual_seed(0)
    # The interpreter cuts bfloat16 off where a GPU rounds.
    check_all("cpu", (torch.float16, torch.float32))
    print("equal")
