"""Log-probabilities on a device against float64."""

from __future__ import annotations

import torch

from qoq.kernels.gpu.sampling.token_logprobs import token_logprobs_triton


def check_logprobs(device: str, vocab_size: int, num_top: int, dtype: torch.dtype) -> None:
    """Logits in steps of 1/64 have ties; rounding leaves about (L + log V) / 2^23."""
    logits = (torch.randn(4, vocab_size) * 256).round() / 64
    logits[3] = 1.0
    logits = logits.to(dtype)
    tokens = torch.randint(0, vocab_size, (4,))
    tokens[1] = logits[1].argmax()
    got = token_logprobs_triton(logits.to(device), tokens.to(device), num_top)
    exact = logits.double().log_softmax(-1)
    own = exact.gather(1, tokens[:, None])
    tolerance = (logits.abs().max().item() + 12) * 2**-22
    assert (got.logprobs.cpu() - own[:, 0]).abs().max() <= tolerance
    assert got.ranks.tolist() == ((exact > own).sum(-1) + 1).tolist()
    order = exact.sort(dim=-1, descending=True, stable=True).indices[:, :num_top]
    assert torch.equal(got.top_ids.cpu(), order)
    if num_top:
        error = got.top_logprobs.cpu() - exact.gather(1, order)
        assert error.abs().max() <= tolerance


def check_company(device: str) -> None:
    logits = torch.randn(5, 3000, device=device)
    tokens = torch.arange(5, device=device)
    together = token_logprobs_triton(logits, tokens, 3)
    for row in range(5):
        alone = token_logprobs_triton(logits[row : row + 1], tokens[row : row + 1], 3)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, together, strict=True))


def check_all(device: str, dtypes: tuple[torch.dtype, ...], vocab_sizes: tuple[int, ...]) -> None:
    for dtype in dtypes:
        for vocab_size in vocab_sizes:
            check_logprobs(device, vocab_size, min(20, vocab_size), dtype)
            check_logprobs(device, vocab_size, 0, dtype)
    check_company(device)
