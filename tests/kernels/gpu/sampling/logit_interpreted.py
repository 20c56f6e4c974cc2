"""Run by test_logit_edits in a process of its own: Triton's interpreter is chosen at import."""

import interpreter  # noqa: F401
import torch
from logit_cases import check_all

if __name__ == "__main__":
    torch.manual_seed(0)
    check_all("cpu", (7, 8500))
    print("equal")
