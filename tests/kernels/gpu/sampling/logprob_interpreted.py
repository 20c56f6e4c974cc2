"""Run by test_token_logprobs in a process of its own: the interpreter is chosen at import."""

import interpreter  # noqa: F401
import torch
from logprob_cases import check_all

if __name__ == "__main__":
    torch.manual_seed(0)
    check_all("cpu", (torch.float16, torch.float32), (1, 70, 5000))
    print("equal")
